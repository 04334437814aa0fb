"""What to train for a budget: which base model and adapter, on how many tokens, and how good it will be.

Every combination measured is priced by its own longest trajectory; the law says what the tokens that the budget buys
would reach. Rank is nearly free in FLOPs, so among ranks that the law cannot tell apart the smallest is taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from isolora.errors import TableError, UserError
from isolora.fit import Fit
from isolora.laws import Array
from isolora.table import Table

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BUDGET = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([a-z]+)\s*", re.IGNORECASE)
_BUDGET_FORMS = "1e15flops, 90s, 30min, 2h, 1d"
_WIDE_INTERVAL = 0.05
_FAR_BUDGET = 10.0
_NARROW_MARGIN = 1.1

Prices = Mapping[tuple[str, int], float]
"""(model, rank) -> training FLOPs per token, where they are known better than from the table."""


@dataclass(frozen=True)
class Budget:
    """An amount of compute: `unit` is "flops" or "seconds"."""

    amount: float
    unit: str


@dataclass(frozen=True)
class Option:
    """A combination that was measured, what one token costs with it, and its farthest point."""

    model: str
    method: str
    rank: int
    learning_rate: float
    body_parameters: float
    trainable_parameters: float
    flops_per_token: float
    seconds_per_token: float
    tokens_per_example: float
    peak_memory_bytes: float
    largest_tokens: float
    largest_flops: float

    def tokens(self, budget: Budget) -> float:
        """What the budget buys."""
        return budget.amount / (self.flops_per_token if budget.unit == "flops" else self.seconds_per_token)

    def columns(self, tokens: float, unique_tokens: float) -> dict[str, float]:
        """One row in the laws' short names."""
        return {"n": self.body_parameters, "d": tokens, "p": self.trainable_parameters, "u": min(tokens, unique_tokens)}


@dataclass(frozen=True)
class Recommendation:
    """What to train, what it costs, what it will reach; losses in nats per token, memory in bytes."""

    model: str
    method: dict[str, Any]
    learning_rate: float
    tokens: int
    examples: int
    epochs: float
    flops: float
    seconds: float
    predicted_loss: float
    interval: tuple[float, float]
    nearest_evidence: dict[str, Any]
    warnings: tuple[str, ...]
    alternatives: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """The answer of `isolora plan --json`."""
        return {
            **asdict(self),
            "interval": list(self.interval),
            "warnings": list(self.warnings),
            "alternatives": [dict(row) for row in self.alternatives],
        }


def parse_budget(text: str) -> Budget:
    """"1e15flops", "90s", "30min", "2h". Raises UserError, one line, naming the valid forms."""
    found = _BUDGET.fullmatch(text)
    amount, unit = (float(found[1]), found[2].lower()) if found else (0.0, "")
    if unit not in ("flops", "flop", *_SECONDS):
        raise UserError(f"budget {text!r} is not understood (valid: {_BUDGET_FORMS})")
    if not (np.isfinite(amount) and amount > 0):
        raise UserError(f"budget {text!r} must be above zero and finite (valid: {_BUDGET_FORMS})")
    return Budget(amount * _SECONDS[unit], "seconds") if unit in _SECONDS else Budget(amount, "flops")


def options(table: Table, prices: Prices | None = None) -> list[Option]:
    """Every (model, method, rank, learning rate) of the table, priced by its largest point."""
    for name in ("model", "tokens", "flops"):
        if name not in table:
            raise TableError(f"the table has no {name} column; planning needs model, tokens and flops")
    table = table.where(_studied(table))
    keys = list(zip(*(_column(table, name) for name in ("model", "method", "rank", "learning_rate")), strict=True))
    largest: dict[tuple[Any, ...], int] = {}
    for row, key in enumerate(map(_hashable, keys)):
        if table["tokens"][row] > 0 and (key not in largest or table["tokens"][row] > table["tokens"][largest[key]]):
            largest[key] = row
    return [_option(table, row, prices or {}) for row in largest.values()]


def plan(
    fit: Fit,
    table: Table,
    budget: str | Budget,
    examples: int | None = None,
    memory_bytes: float | None = None,
    prices: Prices | None = None,
) -> Recommendation:
    """The option with the lowest predicted loss for the budget; the smallest rank among those within the law's noise.

    `table` is the one behind `fit` (one learning rate each: `best_learning_rates`). `examples` is how many there are to
    train on: what goes beyond them are further passes. Raises UserError for a budget that is none, TableError when no
    option fits the memory.
    """
    bought = parse_budget(budget) if isinstance(budget, str) else budget
    affordable = _affordable(options(table, prices), bought, memory_bytes)
    rows = [_row(fit, option, option.tokens(bought), _unique_tokens(option, examples)) for option in affordable]
    best = _choose(rows, fit.noise)
    option, tokens = affordable[best], rows[best]["tokens"]
    unique = _unique_tokens(option, examples)
    low, high = _interval(fit, option, tokens, unique)
    return Recommendation(
        model=option.model,
        method={"name": option.method, "rank": option.rank},
        learning_rate=option.learning_rate,
        tokens=round(tokens),
        examples=rows[best]["examples"],
        epochs=rows[best]["epochs"],
        flops=rows[best]["flops"],
        seconds=rows[best]["seconds"],
        predicted_loss=rows[best]["predicted_loss"],
        interval=(low, high),
        nearest_evidence=_nearest(table, option, tokens),
        warnings=tuple(_warnings(fit, affordable, option, rows[best], (low, high))),
        alternatives=tuple(sorted(rows, key=lambda row: float(row["predicted_loss"]))),
    )


def isoflop(fit: Fit, priced: Sequence[Option], budget: float) -> dict[str, Array]:
    """One budget in FLOPs spent on each option: columns body_parameters, rank, tokens, loss, low and high."""
    tokens = [option.tokens(Budget(budget, "flops")) for option in priced]
    spreads = [_interval(fit, option, count, np.inf) for option, count in zip(priced, tokens, strict=True)]
    return {
        "body_parameters": np.array([option.body_parameters for option in priced]),
        "rank": np.array([option.rank for option in priced], dtype=float),
        "tokens": np.array(tokens),
        "loss": np.array([_loss(fit, option, count, np.inf) for option, count in zip(priced, tokens, strict=True)]),
        "low": np.array([low for low, _ in spreads]),
        "high": np.array([high for _, high in spreads]),
    }


def frontier(fit: Fit, priced: Sequence[Option], budgets: Iterable[float]) -> dict[str, Array]:
    """The best option at each budget in FLOPs: columns flops, option (its index), tokens, loss, low and high."""
    flops = np.array(list(budgets), dtype=float)
    profiles = [isoflop(fit, priced, budget) for budget in flops]
    best = np.array([int(profile["loss"].argmin()) for profile in profiles])
    picked = {name: np.array([profile[name][i] for profile, i in zip(profiles, best, strict=True)]) for name in _PICKED}
    return {"flops": flops, "option": best.astype(float), **picked}


_PICKED = ("tokens", "loss", "low", "high")


def _studied(table: Table) -> Any:
    return table["stage"] != "verify" if "stage" in table else np.ones(len(table), dtype=bool)


def _column(table: Table, name: str) -> Iterable[Any]:
    defaults = {"method": "lora", "rank": 0.0}
    return table[name] if name in table else [defaults.get(name, np.nan)] * len(table)


def _hashable(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """NaN differs from itself; as text it does not."""
    return tuple(str(part) for part in key)
