"""What the page needs to plan by itself: the fitted law as data, the options with their prices, limits, measured points.

The page's scripts (`evaluate.js`, `plan.js`, `reach.js`) do the arithmetic of `isolora.fit.Fit` and `isolora.plan`; the numbers
below that those keep to themselves are theirs, and a test holds the page's answers against theirs at many positions.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from isolora import laws
from isolora.cost.accelerators import Place, packaged_accelerators
from isolora.fit import Fit, best_learning_rates, studied
from isolora.fit.continuation import GROWN
from isolora.fit.distance import RANDOM_WALK
from isolora.fit.interval import JUDGED_SHARE, MOST_ALONG, UPPER, edge_scale, student_quantile
from isolora.fit.result import NEAR
from isolora.fit.written import continuation_state
from isolora.json_types import JsonMapping, JsonObject
from isolora.plan import Option
from isolora.plan.choice import LARGEST_TIE, ONE_SIGMA
from isolora.plan.limits import FARTHEST, Limits, examples_at_hand, passes_limit
from isolora.plan.options import name_by_size
from isolora.plan.recommendation import WIDEST, WIDEST_BOUNDED
from isolora.report.formula import symbolic_log_terms
from isolora.report.study_report import StudyReport
from isolora.table import Table

MOST_POINTS = 4000
"""Measured points beyond which a page would grow too large to carry them."""
_DIGITS = 13
_FIT = {"near": NEAR, "randomWalk": RANDOM_WALK, "upper": UPPER, "mostAlong": MOST_ALONG, "grown": GROWN}
_RULES = {
    "below": 0.5,
    "grid": 48,
    "reachGrid": 160,
    "widest": WIDEST,
    "widestBounded": WIDEST_BOUNDED,
    "nextStep": 10.0,
    "mostNext": 3,
    "leastShare": 0.05,
}
_TEXTS = ("run", "model", "method")
_NUMBERS = (
    *("rank", "learning_rate", "tokens", "flops", "seconds", "loss", "peak_memory_bytes", "unique_examples", "forgetting"),
    *("body_parameters", "model_parameters", "trainable_parameters"),
)


def instrument(study: StudyReport) -> JsonObject | None:
    """Data for the sliders; None where there is no law, nothing to choose from, or a law that is no plain formula."""
    fit = study.fit
    points = studied(study.table)
    if fit is None or not study.options or "tokens" not in points or len(points) > MOST_POINTS:
        return None
    try:
        law = _fit(fit)
    except TypeError:
        return None
    smallest = float(study.table["tokens"][study.table["tokens"] > 0].min())
    rules = {**_RULES, "farthest": FARTHEST, "tie": min(fit.noise, LARGEST_TIE), "repeats": "u" in fit.shape.demands}
    return {
        "fit": law,
        "options": [_option(fit, option) for option in study.options],
        "rules": rules,
        "points": _points(points),
        "nearestRows": _nearest_rows(points),
        "smallest": smallest,
        "accelerators": _accelerators(study.precision),
        "start": _start(study),
        "limits": _limits(study.limits),
        "examplesAtHand": examples_at_hand(study.table),
        "target": study.target,
    }


def _start(study: StudyReport) -> JsonObject | None:
    """The budget that the sliders start at, the one asked for or what a recommendation spends, and what else that plan says."""
    if study.budget is not None:
        spent: JsonObject | None = {"amount": study.budget.amount, "unit": study.budget.unit}
    else:
        spent = {"amount": study.recommendation.flops, "unit": "flops"} if study.recommendation else None
    return None if spent is None else {**spent, **_place(study.place), "next": _next(study)}


def _next(study: StudyReport) -> list[JsonObject]:
    """The runs that the plan at the start names as the next to measure; elsewhere the page only steps towards the budget."""
    runs = study.recommendation.measure_next if study.recommendation else study.measure_next
    return [{"option": {name: run[name] for name in ("model", "method", "rank")}, "tokens": run["tokens"]} for run in runs]


def _place(place: Place) -> JsonObject:
    """Where the page's times are of, and what an hour costs there; nothing of what nobody said."""
    known = {
        "where": place.accelerator and place.accelerator.name,
        "share": place.utilisation and 100 * place.utilisation,
        "price": place.price_per_hour,
    }
    return {name: value for name, value in known.items() if value is not None}


def _limits(limits: Limits) -> JsonObject:
    known = {"examples": limits.examples, "memory": limits.memory_bytes, "forget": limits.forget_at_most}
    return {**known, "serve": limits.serve_tokens}


def _fit(fit: Fit) -> JsonObject:
    members = [
        {"law": member.law, "weight": member.weight, "theta": _searched(member.law, member.theta)} for member in fit.members
    ]
    names = dict.fromkeys([fit.law, *(member.law for member in fit.members)])
    return {
        **_FIT,
        "law": fit.law,
        "formulas": {name: symbolic_log_terms(laws.resolve(name)) for name in names},
        "theta": _searched(fit.law, tuple(fit.parameters.values())),
        "draws": [_searched(fit.law, tuple(theta)) for theta in fit.draws.tolist()],
        "members": members,
        "ranges": {name: list(ends) for name, ends in fit.ranges.items()},
        "noise": fit.noise,
        "drift": fit.drift,
        "shift": fit.shift,
        "price": fit.price,
        "ceiling": _number(fit.ceiling),
        "errorLevel": fit.level,
        "continuation": continuation_state(fit.continuation),
        "edges": [_searched(fit.law, theta) for theta in fit.edges.values()],
        "judgedShare": (JUDGED_SHARE if fit.holdout else 1.0) * fit.stretch,
        "levels": {"interval": _level(fit, 0.95), "prudent": _level(fit, ONE_SIGMA)},
    }


def _level(fit: Fit, level: float) -> dict[str, float]:
    return {"level": level, "student": student_quantile(fit.runs, level), "edge": edge_scale(level)}


def _searched(name: str, theta: tuple[float, ...]) -> list[float]:
    """Coefficients, then shapes as the law's terms take them."""
    law = laws.resolve(name)
    count = len(law.coefficients)
    shapes = law.searched(np.array([theta[count:]]))[0]
    return [float(f"{value:.{_DIGITS}g}") for value in (*theta[:count], *shapes.tolist())]


def _option(fit: Fit, option: Option) -> JsonObject:
    columns = {"n": option.body_parameters, "p": option.trainable_parameters}
    known: JsonObject = {name: value for name, value in columns.items() if math.isfinite(value)}
    methods = laws.methods_in_name(fit.law)
    if methods and option.method in methods:
        known |= {name: float(values[0]) for name, values in laws.method_columns([option.method], methods).items()}
    families = laws.families_in_name(fit.law)
    if families and option.model in fit.families:
        known |= {name: float(values[0]) for name, values in laws.family_columns([fit.families[option.model]], families).items()}
    plain = {name: _number(value) for name, value in asdict(option).items()}
    return {**plain, "columns": known, "passes_limit": passes_limit(fit, option)}


def _points(points: Table) -> dict[str, list[Any]]:
    texts = {name: [str(value) for value in points[name]] for name in _TEXTS if name in points}
    numbers = {name: [_number(float(value)) for value in points[name]] for name in _NUMBERS if name in points}
    if "model" not in texts and "body_parameters" in points:
        texts["model"] = [name_by_size(size) for size in points["body_parameters"]]
    return {**texts, **numbers}


def _nearest_rows(points: Table) -> list[int]:
    """Rows of the best learning rates, after the start of their runs."""
    numbered = Table({**points.columns, "row": np.arange(len(points), dtype=float)})
    chosen = best_learning_rates(numbered)
    return [int(row) for row in chosen["row"][chosen["tokens"] > 0]]


def _accelerators(precision: str) -> list[JsonObject]:
    """Names with their peak FLOPs a second in a precision; those without one are left out."""
    known = {name: each.flops_per_second.get(precision) for name, each in packaged_accelerators().items()}
    return [{"name": name, "peak": peak} for name, peak in known.items() if peak]


def _number(value: object) -> object:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def no_instrument(data: JsonMapping | None, study: StudyReport) -> str:
    """Why a page with a recommendation has no sliders; empty where it has them or never could."""
    if data is not None or study.recommendation is None:
        return ""
    return "This page cannot be steered: its law is no plain formula, or it has more points than a page can carry."
