"""What there is to choose from: the combinations that were measured, each priced by its own longest trajectory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from isolora.errors import TableError
from isolora.fit import best_learning_rates, studied
from isolora.plan.budget import Budget
from isolora.table import Table

Prices = Mapping[tuple[str, int], float]
"""(model, rank) -> training FLOPs per token, where they are known better than from the table."""

_NEEDED = ("model", "tokens", "flops", "body_parameters")


@dataclass(frozen=True)
class Option:
    """A base model and an adapter, what one token costs with them, and how far they were followed; NaN where unknown."""

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

    def unique_tokens(self, examples: int | None) -> float:
        """Distinct tokens in so many examples; without a number there is no end of them."""
        return np.inf if examples is None else examples * self.tokens_per_example

    def columns(self, tokens: float, unique_tokens: float = np.inf) -> dict[str, float]:
        """A row in the laws' short names."""
        return {"n": self.body_parameters, "d": tokens, "p": self.trainable_parameters, "u": min(tokens, unique_tokens)}


def options(table: Table, prices: Prices | None = None) -> list[Option]:
    """Every (model, method, rank) at its best learning rate. Raises TableError when a needed column is missing."""
    for name in _NEEDED:
        if name not in table:
            raise TableError(f"the table has no {name} column; a plan needs {', '.join(_NEEDED)}")
    chosen = best_learning_rates(studied(table))
    largest: dict[tuple[str, ...], int] = {}
    for row in np.argsort(chosen["tokens"], kind="stable"):
        largest[tuple(_text(chosen, name, row) for name in ("model", "method", "rank"))] = int(row)
    return [_repriced(_option(chosen, row), prices or {}) for row in largest.values()]


def _option(table: Table, row: int) -> Option:
    tokens, flops = _number(table, "tokens", row), _number(table, "flops", row)
    return Option(
        model=_text(table, "model", row),
        method=_text(table, "method", row),
        rank=int(np.nan_to_num(_number(table, "rank", row))),
        learning_rate=_number(table, "learning_rate", row),
        body_parameters=_number(table, "body_parameters", row),
        trainable_parameters=_number(table, "trainable_parameters", row),
        flops_per_token=flops / tokens,
        seconds_per_token=_number(table, "seconds", row) / tokens,
        tokens_per_example=_number(table, "unique_tokens", row) / max(_number(table, "unique_examples", row), 1.0),
        peak_memory_bytes=_number(table, "peak_memory_bytes", row),
        largest_tokens=tokens,
        largest_flops=flops,
    )


def _repriced(option: Option, prices: Prices) -> Option:
    return replace(option, flops_per_token=prices.get((option.model, option.rank), option.flops_per_token))


def _number(table: Table, name: str, row: int) -> float:
    return float(table[name][row]) if name in table else np.nan


def _text(table: Table, name: str, row: int) -> str:
    return str(table[name][row]) if name in table else ""
