"""The answer "no recommendation": why, the best that was measured within the budget, and what to measure next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from isolora.errors import UserError
from isolora.fit import studied
from isolora.plan.budget import Budget
from isolora.plan.options import Option
from isolora.table import Table

_NEXT_STEP = 10.0
"""Largest factor over what was measured that the next run is proposed at."""
_MOST_NEXT = 3
_LEAST_SHARE = 0.05
"""Of the fewest tokens measured: a shorter run would be less than a batch or say nothing."""


class NoRecommendation(UserError):
    """The evidence carries no recommendation. `measured` is the best measured run within the budget, `measure_next` runs that
    would narrow the decision, smallest first."""

    def __init__(self, reason: str, measured: dict[str, Any] | None = None, measure_next: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(reason)
        self.reason, self.measured, self.measure_next = reason, measured, tuple(measure_next)

    def __reduce__(self) -> tuple[type[NoRecommendation], tuple[Any, ...]]:
        return type(self), (self.reason, self.measured, self.measure_next)

    def to_json(self) -> dict[str, Any]:
        """The answer of `isolora plan --json`."""
        return {
            "recommendation": None,
            "reason": self.reason,
            "measured": self.measured,
            "measure_next": list(self.measure_next),
        }

    def words(self) -> str:
        """Lines for a person."""
        lines = [f"no recommendation: {self.reason}"]
        if self.measured:
            lines.append(f"  best measured within the budget: {described(self.measured)}")
        lines += [f"  measure next: {_run_words(run)}" for run in self.measure_next]
        return "\n".join(lines)


def described(measured: dict[str, Any]) -> str:
    """A measured point in words."""
    spent = [f"{measured['tokens']:,.0f} tokens"]
    spent += [f"{measured['flops']:.3g} FLOPs"] if "flops" in measured else []
    spent += [f"{measured['seconds']:,.0f} s"] if "seconds" in measured else []
    return f"run {measured['run']} reached {measured['loss']:.4g} at {', '.join(spent)}"


def best_measured(table: Table, budget: Budget | None, memory_bytes: float | None = None) -> dict[str, Any] | None:
    """The measured point of lowest loss within a budget and a memory; None where there is none, or nothing says its cost."""
    points = studied(table)
    allowed_M = np.ones(len(points), dtype=bool)
    if budget is not None:
        if budget.unit not in points:
            return None
        allowed_M &= points[budget.unit] <= budget.amount * 1.001
    if memory_bytes is not None and "peak_memory_bytes" in points:
        allowed_M &= ~(points["peak_memory_bytes"] > memory_bytes)
    if not allowed_M.any():
        return None
    row = int(np.flatnonzero(allowed_M)[points["loss"][allowed_M].argmin()])
    kinds = {"run": str, "model": str, "method": str, "rank": float, "learning_rate": float, "tokens": float, "flops": float}
    kinds |= {"seconds": float, "loss": float}
    found = {name: kind(points[name][row]) for name, kind in kinds.items() if name in points}
    return {name: value for name, value in found.items() if not (isinstance(value, float) and math.isnan(value))}


def next_runs(options: Sequence[Option], budget: Budget) -> list[dict[str, Any]]:
    """Runs on the way from what was measured to the budget: of the options followed farthest, at most ten times as far."""
    ordered = sorted(options, key=lambda option: -np.nan_to_num(option.largest_flops, nan=option.largest_tokens))
    runs = []
    for option in ordered[:_MOST_NEXT]:
        factor = max(option.tokens(budget) / option.largest_tokens, 1e-12)
        tokens = option.largest_tokens * (min(math.sqrt(factor), _NEXT_STEP) if factor > 1 else factor)
        if tokens >= _LEAST_SHARE * option.smallest_tokens:
            runs.append(run_of(option, tokens))
    return sorted(runs, key=lambda run: float(run["tokens"]))


def run_of(option: Option, tokens: float) -> dict[str, Any]:
    """A run in the words of a study's grid."""
    return {
        "model": option.model,
        "method": option.method,
        "rank": option.rank or None,
        "learning_rate": option.learning_rate,
        "tokens": round(tokens),
        "flops": None if math.isnan(option.flops_per_token) else option.flops_per_token * tokens,
    }


def _run_words(run: dict[str, Any]) -> str:
    rank = f", rank {run['rank']}" if run["rank"] else ""
    cost = f" ({run['flops']:.3g} FLOPs)" if run["flops"] else ""
    return f"{run['model']}, {run['method'] or 'as before'}{rank}, {run['tokens']:,} tokens{cost}"
