"""Planning: what to train for a budget, from a fitted law and the prices in the table of points."""

from __future__ import annotations

from isolora.plan.budget import Budget, parse_budget, parse_memory
from isolora.plan.curves import frontier, isoflop
from isolora.plan.options import Option, Prices, options
from isolora.plan.recommendation import Recommendation, plan

__all__ = [
    "Budget",
    "Option",
    "Prices",
    "Recommendation",
    "frontier",
    "isoflop",
    "options",
    "parse_budget",
    "parse_memory",
    "plan",
]
