"""Fitting scaling laws: `fit(table)` lets the laws compete, fits the winner to convergence and says how sure it is."""

from __future__ import annotations

from isolora.fit.best_rates import best_learning_rates
from isolora.fit.fit_points import studied
from isolora.fit.fitting import HOLDOUTS, ManyMethods, fit
from isolora.fit.result import Fit
from isolora.fit.target import targeted, value_of

__all__ = ["HOLDOUTS", "Fit", "ManyMethods", "best_learning_rates", "fit", "studied", "targeted", "value_of"]
