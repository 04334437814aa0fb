"""Planning: what to train for a budget, from a fitted law and the prices in the table of points."""

from __future__ import annotations

from isolora.plan.asked import asked_limits, asked_plan, fitted_plan
from isolora.plan.budget import Budget, parse_budget, parse_memory, parse_tokens
from isolora.plan.charge import charged
from isolora.plan.choice import frontier, isoflop
from isolora.plan.limits import Limits
from isolora.plan.options import Option, Prices, options
from isolora.plan.reach import Reached, parse_reach, reach
from isolora.plan.recommendation import Recommendation, plan
from isolora.plan.refusal import NoRecommendation, best_measured, point_in_words

__all__ = [
    "Budget",
    "Limits",
    "NoRecommendation",
    "Option",
    "Prices",
    "Reached",
    "Recommendation",
    "asked_limits",
    "asked_plan",
    "best_measured",
    "charged",
    "fitted_plan",
    "frontier",
    "isoflop",
    "options",
    "parse_budget",
    "parse_memory",
    "parse_reach",
    "parse_tokens",
    "plan",
    "point_in_words",
    "reach",
]
