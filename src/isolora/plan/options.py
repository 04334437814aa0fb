"""What there is to choose from: the combinations that were measured, each priced by its own longest trajectory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from isolora.display import short
from isolora.errors import TableError
from isolora.fit import best_learning_rates, studied
from isolora.fit.fit_points import by_group
from isolora.json_types import JsonObject
from isolora.plan.budget import Budget
from isolora.table import MEASURED_ON, SETTINGS, Table, joined_words

Prices = Mapping[tuple[str, int], float]
"""(model, rank) -> training FLOPs per token, where they are known better than from the table."""

_RISE = 0.005
"""Share of the loss by which a run must end above its own best to be called rising, and how many times its largest step upward
before that best: an evaluated loss is smooth, a training loss is not."""
_SCATTERS = 2.0


@dataclass(frozen=True)
class Option:
    """A base model and an adapter, what one token costs with them, and how far they were followed; NaN where unknown.

    `rising` says that the loss ended above its own best; `settings` are what else its runs were trained with, where runs differ;
    `forgetting` are (tokens, nats a token lost on other texts); `rates` are (examples, learning rate) where runs on different
    numbers of examples took different ones, and `learning_rate` is that of the most examples.
    """

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
    smallest_tokens: float = 0.0
    model_parameters: float = np.nan
    largest_passes: float = 1.0
    rising: bool = False
    settings: str = ""
    forgetting: tuple[tuple[float, float], ...] = ()
    rates: tuple[tuple[float, float], ...] = ()
    unique_examples: float = np.nan

    @property
    def name(self) -> str:
        return self.model + adapter_words(self.method, self.rank)

    @property
    def adapter(self) -> JsonObject:
        """The method in a run's words; without a rank where it has none."""
        return {"name": self.method} | ({"rank": self.rank} if self.rank else {})

    def price(self, unit: str) -> float:
        """FLOPs or seconds of one token."""
        return self.flops_per_token if unit == "flops" else self.seconds_per_token

    def tokens(self, budget: Budget, serve_tokens: float = 0.0) -> float:
        """What the budget buys, after serving so many tokens (2 FLOPs a weight of the merged base and token); below zero where
        serving alone costs more."""
        return (budget.amount - self.serving(serve_tokens, budget.unit)) / self.price(budget.unit)

    def unique_tokens(self, examples: int | None) -> float:
        """Distinct tokens in so many examples; without a number there is no end of them."""
        return np.inf if examples is None or np.isnan(self.tokens_per_example) else examples * self.tokens_per_example

    def examples_for(self, tokens: float, at_hand: int | None) -> int | None:
        """Examples that so many tokens take, of those at hand; None where the table tells none of either."""
        if np.isnan(self.tokens_per_example):
            return at_hand
        needed = math.ceil(tokens / self.tokens_per_example)
        return needed if at_hand is None else min(needed, at_hand)

    def rate_for(self, examples: int | None) -> float:
        """The learning rate of the runs on about so many examples; without a number, on the most."""
        if examples is None or not self.rates:
            return self.learning_rate
        return min(self.rates, key=lambda rate: abs(math.log(rate[0] / examples)))[1]

    def columns(self, tokens: float, unique_tokens: float = np.inf) -> JsonObject:
        """A row in the laws' short names; what is not known is left out."""
        row: JsonObject = {"d": tokens, "u": min(tokens, unique_tokens)}
        known = {"n": self.body_parameters, "p": self.trainable_parameters, "c": self.flops_per_token * tokens}
        row |= {name: value for name, value in known.items() if np.isfinite(value)}
        return {**row, "model": self.model} | ({"method": self.method} if self.method else {})

    def forgotten(self, tokens: float) -> float:
        """Nats a token lost on other texts at so many tokens: between points, and beyond them on the line of the last two, by
        the logarithm of tokens; NaN where nothing was measured."""
        if len(self.forgetting) < 2:
            return self.forgetting[0][1] if self.forgetting else np.nan
        logs, lost = np.log([at for at, _ in self.forgetting]), [value for _, value in self.forgetting]
        if np.log(tokens) <= logs[-1]:
            return float(np.interp(np.log(tokens), logs, lost))
        slope = max((lost[-1] - lost[-2]) / max(logs[-1] - logs[-2], 1e-9), 0.0)
        return float(lost[-1] + slope * (np.log(tokens) - logs[-1]))

    def serving(self, tokens: float, unit: str) -> float:
        """FLOPs or seconds that so many tokens of inference take with the merged base."""
        weights = self.model_parameters if np.isfinite(self.model_parameters) else self.body_parameters
        flops = 2.0 * weights * tokens if tokens else 0.0
        return flops if unit == "flops" else flops * self.seconds_per_token / self.flops_per_token if flops else 0.0


def options(table: Table, prices: Prices | None = None) -> list[Option]:
    """Every (model, method, rank) at its best learning rate. Raises TableError when a needed column is missing.

    Models without a name go by their size; a table needs tokens, and FLOPs or seconds to price them by.
    """
    named = _with_names(table)
    for wanted, map_ in ((("model",), "n=COLUMN"), (("tokens",), "d=COLUMN"), (("flops", "seconds"), "c=COLUMN, or c=6nd")):
        if not any(name in named for name in wanted):
            absent = " and no ".join(wanted)
            needs = "a plan needs a model (or n), tokens, and flops or seconds"
            raise TableError(f"the table has no {absent} column; {needs}; map one with --map {map_}")
    chosen = best_learning_rates(studied(named))
    chosen = chosen.where(chosen["tokens"] > 0)
    groups: dict[tuple[str, ...], list[int]] = {}
    for row in np.argsort(chosen["tokens"], kind="stable"):
        groups.setdefault(tuple(_text(chosen, name, int(row)) for name in ("model", "method", "rank")), []).append(int(row))
    return [_repriced(option, prices or {}) for option in _of_one_length([_option(chosen, rows) for rows in groups.values()])]


def _of_one_length(found: Sequence[Option]) -> list[Option]:
    """The options with one length of examples for each base and settings, that of the most examples that any of its runs saw: it
    is the data's, and a run of few examples tells it less well."""
    alike: dict[tuple[str, str], Option] = {}
    for option in found:
        known = alike.setdefault((option.model, option.settings), option)
        if option.unique_examples > known.unique_examples or math.isnan(known.tokens_per_example):
            alike[option.model, option.settings] = option
    return [replace(each, tokens_per_example=alike[each.model, each.settings].tokens_per_example) for each in found]


def _with_names(table: Table) -> Table:
    if "body_parameters" not in table:
        return table
    given = table["model"] if "model" in table else np.full(len(table), "", dtype=object)
    if all(given):
        return table
    pairs = zip(given, table["body_parameters"], strict=True)
    names = np.array([name or name_by_size(size) for name, size in pairs], dtype=object)
    return replace(table, columns={**table.columns, "model": names})


def adapter_words(method: str, rank: int | None) -> str:
    """` with lora of rank 8`, ` of rank 8` where a table names no method, nothing where it names neither."""
    return (f" with {method}" if method else "") + (f" of rank {rank}" if rank else "")


def name_by_size(weights: float) -> str:
    """What a base without a name is called: n=16.18B, as `--at` takes it."""
    return f"n={short(weights, digits=4)}"


def _option(table: Table, rows: list[int]) -> Option:
    last = rows[-1]
    tokens, flops = _number(table, "tokens", last), _number(table, "flops", last)
    unique = _number(table, "unique_tokens", last)
    rates = _rates(table, rows)
    return Option(
        model=_text(table, "model", last),
        method=_text(table, "method", last),
        rank=int(np.nan_to_num(_number(table, "rank", last))),
        learning_rate=rates[-1][1] if rates else _number(table, "learning_rate", last),
        body_parameters=_number(table, "body_parameters", last),
        trainable_parameters=_number(table, "trainable_parameters", last),
        flops_per_token=flops / tokens,
        seconds_per_token=_number(table, "seconds", last) / tokens,
        tokens_per_example=unique / max(_number(table, "unique_examples", last), 1.0),
        peak_memory_bytes=_number(table, "peak_memory_bytes", last),
        largest_tokens=tokens,
        largest_flops=flops,
        smallest_tokens=_number(table, "tokens", rows[0]),
        model_parameters=_number(table, "model_parameters", last),
        largest_passes=max(1.0, tokens / unique) if np.isfinite(unique) and unique > 0 else 1.0,
        rising=_rises(table.where(np.array(rows))),
        settings=joined_words(_text(table, name, last) for name in (MEASURED_ON, SETTINGS)),
        forgetting=_forgetting(table, rows),
        rates=rates,
        unique_examples=_number(table, "unique_examples", last),
    )


def _forgetting(table: Table, rows: list[int]) -> tuple[tuple[float, float], ...]:
    """(tokens, nats a token lost) of the runs, fewest tokens first; the mean of those at the same tokens."""
    if "forgetting" not in table:
        return ()
    told = [row for row in rows if np.isfinite(table["forgetting"][row])]
    by_tokens: dict[float, list[float]] = {}
    for row in told:
        by_tokens.setdefault(float(table["tokens"][row]), []).append(float(table["forgetting"][row]))
    return tuple((tokens, float(np.mean(lost))) for tokens, lost in by_tokens.items())


def _rates(table: Table, rows: list[int]) -> tuple[tuple[float, float], ...]:
    """(examples, learning rate) of the runs, fewest first; empty where all took the same."""
    ends: dict[str, tuple[float, float]] = {}
    for row in rows:
        seen = (_number(table, "unique_examples", row), _number(table, "learning_rate", row))
        if all(np.isfinite(seen)) and seen[0] > 0:
            ends[str(table["run"][row])] = max(seen, ends.get(str(table["run"][row]), seen))
    return tuple(sorted(set(ends.values()))) if len({rate for _, rate in ends.values()}) > 1 else ()


def _rises(points: Table) -> bool:
    """Whether every run of three points or more ended above its own lowest loss, by more than the points' own scatter."""
    ends = []
    _, run_M = np.unique(points["run"].astype(str), return_inverse=True)
    for of_run in by_group(run_M, points["tokens"]):
        if len(of_run) > 2:
            log_loss = np.log(points["loss"][of_run])
            scatter = float(np.diff(log_loss[: log_loss.argmin() + 1], prepend=log_loss[0]).max())
            ends.append(log_loss[-1] - log_loss.min() > max(_RISE, _SCATTERS * scatter))
    return bool(ends) and all(ends)


def _repriced(option: Option, prices: Prices) -> Option:
    return replace(option, flops_per_token=prices.get((option.model, option.rank), option.flops_per_token))


def _number(table: Table, name: str, row: int) -> float:
    return float(table[name][row]) if name in table else np.nan


def _text(table: Table, name: str, row: int) -> str:
    return str(table[name][row]) if name in table else ""
