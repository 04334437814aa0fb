"""What to train for a budget: which base model and adapter, on how many tokens, and how good it will be.

The choice is prudent: a low prediction counts for little where it is only a long extrapolation, so options are compared by
the upper end of a one-sigma interval. Rank is nearly free in FLOPs, so among the ranks that the law cannot tell apart the
smallest is taken: it costs less memory and forgets less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from isolora.errors import TableError
from isolora.fit import Fit, best_learning_rates, studied, targeted
from isolora.plan.advice import warnings
from isolora.plan.budget import Budget, parse_budget
from isolora.plan.curves import ONE_SIGMA
from isolora.plan.options import Option, Prices, options
from isolora.table import Table

_LARGEST_TIE = 0.005
"""Share of the loss: a law noisier than this still does not call ranks equal that lie further apart."""


@dataclass(frozen=True)
class Recommendation:
    """What to train, what it costs and what it will reach: loss in nats per token with its 95 % interval, or what else the
    law is of, its `target`, which every `loss` is then about.

    `examples` are distinct ones and `epochs` the passes over them; `seconds` is None where the table has no times.
    """

    model: str
    method: dict[str, Any]
    learning_rate: float
    tokens: int
    examples: int | None
    epochs: float
    flops: float
    seconds: float | None
    predicted_loss: float
    interval: tuple[float, float]
    nearest_evidence: dict[str, Any]
    warnings: tuple[str, ...]
    alternatives: tuple[dict[str, Any], ...]
    target: str = "loss"

    def to_json(self) -> dict[str, Any]:
        """The answer of `isolora plan --json`."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        low, high = self.interval
        unit = " nats a token" if self.target == "loss" else ""
        spent = f"{self.flops:.3g} FLOPs" + (f", about {self.seconds:,.0f} s" if self.seconds is not None else "")
        data = f"{self.tokens:,} tokens" + (f" ({self.examples:,} examples, {self.epochs:.3g} passes)" if self.examples else "")
        adapter = f"{self.method['name']} of rank {self.method['rank']}"
        lines = [
            f"train {self.model} with {adapter} at learning rate {self.learning_rate:g}",
            f"  on {data}: {spent}",
            f"  expected {self.target} {self.predicted_loss:.4f}{unit}, 95 % interval {low:.4f} to {high:.4f}",
            *(f"  mind: {sentence}" for sentence in self.warnings),
        ]
        return "\n".join(lines)


def plan(
    fit: Fit,
    table: Table,
    budget: str | Budget,
    examples: int | None = None,
    memory_bytes: float | None = None,
    prices: Prices | None = None,
) -> Recommendation:
    """The option whose loss the law expects to be low even with some bad luck; of equal ones the smallest rank.

    `examples` is how many there are to train on: tokens beyond them are further passes. Raises UserError for a budget that
    is none, TableError when no option fits the memory or a budget of time meets a table without times.
    """
    bought = parse_budget(budget) if isinstance(budget, str) else budget
    table = targeted(table, fit.target).table
    affordable = _affordable(options(table, prices), bought, memory_bytes)
    rows = [_row(fit, option, bought, examples) for option in affordable]
    index = _choose(rows, min(fit.noise, _LARGEST_TIE))
    option, row = affordable[index], rows[index]
    return Recommendation(
        **{name: row[name] for name in ("model", "learning_rate", "examples", "epochs", "flops", "seconds", "predicted_loss")},
        tokens=round(row["tokens"]),
        method={"name": option.method, "rank": option.rank},
        interval=tuple(row["interval"]),
        nearest_evidence=_nearest(table, option, row["tokens"]),
        warnings=tuple(warnings(fit, affordable, option, row)),
        alternatives=tuple(sorted(rows, key=lambda other: float(other["predicted_loss"]))),
        target=fit.target,
    )


def _affordable(priced: Sequence[Option], budget: Budget, memory_bytes: float | None) -> list[Option]:
    if budget.unit == "seconds" and any(math.isnan(option.seconds_per_token) for option in priced):
        raise TableError("a budget of time needs a seconds column in the table; give the budget in flops")
    fitting = [option for option in priced if memory_bytes is None or not option.peak_memory_bytes > memory_bytes]
    if not fitting:
        least = min(option.peak_memory_bytes for option in priced)
        raise TableError(f"memory of {memory_bytes:g} bytes fits no option; the smallest needs {least:g}")
    return fitting


def _row(fit: Fit, option: Option, budget: Budget, examples: int | None) -> dict[str, Any]:
    """What the budget buys with one option, and what that would reach."""
    tokens = option.tokens(budget)
    unique_tokens = option.unique_tokens(examples)
    columns = option.columns(tokens, unique_tokens)
    (low,), (high,) = fit.interval(columns)
    _, (prudent,) = fit.interval(columns, ONE_SIGMA)
    return {
        "model": option.model,
        "method": option.method,
        "rank": option.rank,
        "learning_rate": option.learning_rate,
        "tokens": tokens,
        "examples": _examples(option, tokens, examples),
        "epochs": max(1.0, tokens / unique_tokens),
        "flops": tokens * option.flops_per_token,
        "seconds": None if math.isnan(option.seconds_per_token) else tokens * option.seconds_per_token,
        "predicted_loss": float(fit.predict(columns)[0]),
        "interval": [float(low), float(high)],
        "prudent_loss": float(prudent),
    }


def _examples(option: Option, tokens: float, examples: int | None) -> int | None:
    if math.isnan(option.tokens_per_example):
        return examples
    needed = math.ceil(tokens / option.tokens_per_example)
    return needed if examples is None else min(needed, examples)


def _choose(rows: Sequence[dict[str, Any]], tie: float) -> int:
    """Lowest prudent loss; then, of that model and method, the smallest rank within `tie` (a share of the loss) of it."""
    best = min(rows, key=lambda row: float(row["prudent_loss"]))
    equal = [
        index
        for index, row in enumerate(rows)
        if (row["model"], row["method"]) == (best["model"], best["method"])
        and row["prudent_loss"] <= best["prudent_loss"] * (1 + tie)
    ]
    return min(equal, key=lambda index: (int(rows[index]["rank"]), float(rows[index]["prudent_loss"])))


def _nearest(table: Table, option: Option, tokens: float) -> dict[str, Any]:
    """The measured point closest in log size, log trainable parameters and log tokens."""
    measured = best_learning_rates(studied(table))
    measured = measured.where(measured["tokens"] > 0)
    distance_M = np.log(measured["tokens"] / tokens) ** 2 + np.log(measured["body_parameters"] / option.body_parameters) ** 2
    if "trainable_parameters" in measured:
        distance_M = distance_M + np.log(measured["trainable_parameters"] / option.trainable_parameters) ** 2
    row = int(np.argmin(distance_M))
    names = {"run": str, "model": str, "rank": float, "tokens": float, "flops": float, "loss": float}
    return {name: kind(measured[name][row]) for name, kind in names.items() if name in measured}
