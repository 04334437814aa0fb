"""Fitting scaling laws: `fit(table)` lets the laws compete, fits the winner to convergence and says how sure it is."""

from __future__ import annotations

from isolora.fit.best_rates import best_learning_rates
from isolora.fit.fit_points import studied
from isolora.fit.fitting import HOLDOUTS, ManyMethods, fit
from isolora.fit.remarks import about_bounds
from isolora.fit.result import Fit
from isolora.fit.target import Score, targeted, value_of, value_words
from isolora.fit.unseen import unseen, was_asked_for

__all__ = [
    "HOLDOUTS",
    "Fit",
    "ManyMethods",
    "Score",
    "about_bounds",
    "best_learning_rates",
    "fit",
    "studied",
    "targeted",
    "unseen",
    "value_of",
    "value_words",
    "was_asked_for",
]
