"""The answer "no recommendation": why, the best that was measured within the budget, and what to measure next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isolora.display import time_in_words
from isolora.errors import UserError
from isolora.fit import Fit, best_learning_rates, studied, unseen, value_words, was_asked_for
from isolora.json_types import JsonObject
from isolora.laws import Array
from isolora.plan.budget import Budget
from isolora.plan.limits import Limits
from isolora.table import Table


class NoRecommendation(UserError):
    """The evidence carries no recommendation. `measured` is the best measured run within the budget, `measure_next` runs that
    would narrow the decision, smallest first; target: what the law, and so `measured`, is of; warnings: what was assumed."""

    warnings: tuple[str, ...] = ()

    def __init__(
        self,
        reason: str,
        measured: JsonObject | None = None,
        measure_next: Sequence[JsonObject] = (),
        target: str = "loss",
    ) -> None:
        super().__init__(reason)
        self.reason, self.measured, self.measure_next, self.target = reason, measured, tuple(measure_next), target

    def __reduce__(self) -> tuple[type[NoRecommendation], tuple[Any, ...]]:
        return type(self), (self.reason, self.measured, self.measure_next, self.target)

    def to_json(self) -> JsonObject:
        """The answer of `isolora plan --json`; what was measured, under the key loss, is of the target."""
        return {
            "recommendation": None,
            "reason": self.reason,
            "target": self.target,
            "measured": self.measured,
            "measure_next": list(self.measure_next),
            "warnings": list(self.warnings),
        }

    def words(self) -> str:
        """Lines for a person."""
        lines = [f"no recommendation: {self.reason}"]
        if self.measured:
            lines.append(f"  best measured within the budget: {point_in_words(self.measured, self.target)}")
        lines += [f"  mind: {sentence}" for sentence in self.warnings]
        lines += [f"  measure next: {run_words(run)}" for run in self.measure_next]
        return "\n".join(lines)


def demand_seen(fit: Fit, table: Table) -> None:
    """Raises NoRecommendation where bases or ranks differ by more than chance, and the law reads nothing that tells them."""
    chosen = best_learning_rates(table)
    if was_asked_for(fit, chosen):
        return
    for name, words in unseen(fit, chosen).items():
        tell = "map their trained weights with --map p=COLUMN" if name == "rank" else "measure more points of each"
        reason = f"the law {fit.law!r} reads no {name}: {words}; {tell}, or choose one with --where {name}=..."
        raise NoRecommendation(reason, target=fit.target)


def within(table: Table, limits: Limits) -> Table:
    """The points that keep to the limits on examples and forgetting."""
    kept_M = np.ones(len(table), dtype=bool)
    if limits.examples is not None and "unique_examples" in table:
        kept_M &= ~(table["unique_examples"] > limits.examples)
    if limits.forget_at_most is not None and "forgetting" in table:
        kept_M &= ~(table["forgetting"] > limits.forget_at_most)
    return table.where(kept_M)


def point_in_words(measured: JsonObject, target: str = "loss") -> str:
    """A measured point in words; its `loss` is of the target."""
    spent = [f"{measured['tokens']:,.0f} tokens"]
    spent += [f"{measured['flops']:.3g} FLOPs"] if "flops" in measured else []
    spent += [time_in_words(measured["seconds"])] if "seconds" in measured else []
    return f"run {measured['run']} reached {value_words(target, measured['loss'])} at {', '.join(spent)}"


def best_measured(
    table: Table, budget: Budget | None, memory_bytes: float | None = None, serve_tokens: float = 0.0
) -> JsonObject | None:
    """The measured point of lowest loss within a budget, which pays for its serving too, and a memory; None where there is none,
    or nothing says its cost."""
    points = studied(table)
    allowed_M = _fits_memory(points, memory_bytes)
    if budget is not None:
        if budget.unit not in points:
            return None
        allowed_M &= points[budget.unit] + _serving(points, serve_tokens, budget.unit) <= budget.amount * 1.001
    if not allowed_M.any():
        return None
    return _point(points, int(np.flatnonzero(allowed_M)[points["loss"][allowed_M].argmin()]))


def first_measured(table: Table, goal: float, unit: str, memory_bytes: float | None = None) -> JsonObject | None:
    """The measured point that was at the goal for the least FLOPs or seconds; None where none was."""
    points = studied(table)
    if unit not in points:
        return None
    reached_M = (points["loss"] <= goal) & (points["tokens"] > 0) & np.isfinite(points[unit]) & _fits_memory(points, memory_bytes)
    if not reached_M.any():
        return None
    return _point(points, int(np.flatnonzero(reached_M)[points[unit][reached_M].argmin()]))


def _serving(points: Table, tokens: float, unit: str) -> Array:
    """What so many tokens of inference take with each point's base, (M,); see `Option.serving`."""
    if not tokens:
        return np.zeros(len(points))
    sizes = [points[name] for name in ("model_parameters", "body_parameters") if name in points]
    weights_M = np.where(np.isfinite(sizes[0]), sizes[0], sizes[-1])
    flops_M: Array = 2.0 * weights_M * tokens
    return flops_M if unit == "flops" else flops_M * points["seconds"] / points["flops"]


def _fits_memory(points: Table, memory_bytes: float | None) -> NDArray[np.bool_]:
    if memory_bytes is None or "peak_memory_bytes" not in points:
        return np.ones(len(points), dtype=bool)
    fits_M: NDArray[np.bool_] = points["peak_memory_bytes"] <= memory_bytes
    return fits_M


def _point(points: Table, row: int) -> JsonObject:
    """What a row says of itself."""
    kinds = {"run": str, "model": str, "method": str, "rank": float, "learning_rate": float, "tokens": float, "flops": float}
    kinds |= {"seconds": float, "loss": float}
    found = {name: kind(points[name][row]) for name, kind in kinds.items() if name in points}
    return {name: value for name, value in found.items() if not (isinstance(value, float) and math.isnan(value))}


def run_words(run: JsonObject) -> str:
    """A run to be measured, in words."""
    rank = f", rank {run['rank']}" if run["rank"] else ""
    cost = f" ({run['flops']:.3g} FLOPs)" if run["flops"] else ""
    return f"{run['model']}, {run['method'] or 'as before'}{rank}, {run['tokens']:,} tokens{cost}"
