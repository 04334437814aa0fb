"""The inverse question: what it takes to reach a loss or a score, or that it is out of reach."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from isolora.display import money_in_words, time_in_words
from isolora.errors import UserError
from isolora.fit import Fit, targeted
from isolora.fit.target import ERROR_OF
from isolora.json_types import JsonObject
from isolora.laws import Array
from isolora.plan.limits import (
    FARTHEST,
    Limits,
    demand_told,
    kept_examples,
    least_tokens,
    most_tokens,
    too_little_memory,
    within_memory,
)
from isolora.plan.options import Option, Prices, adapter_words, options
from isolora.plan.recommendation_warnings import about_spending, left_out_words
from isolora.plan.refusal import NoRecommendation, demand_seen, first_measured, point_in_words, within
from isolora.table import Table

_GRID = 160


@dataclass(frozen=True)
class Reached:
    """The cheapest way to a goal: `tokens` where the prediction passes it, `tokens_interval` where the 95 % interval's ends do
    (None: not within what the evidence supports). Examples, FLOPs, seconds and money are those of `tokens`, their intervals those
    of `tokens_interval`; `measured` is a measured point that was there for less."""

    target: str
    goal: float
    model: str
    method: JsonObject
    learning_rate: float
    tokens: int
    tokens_interval: tuple[int | None, int | None]
    examples: int | None
    flops: float
    flops_interval: tuple[float | None, float | None]
    seconds: float | None
    money: float | None
    examples_interval: tuple[int | None, int | None] = (None, None)
    seconds_interval: tuple[float | None, float | None] = (None, None)
    money_interval: tuple[float | None, float | None] = (None, None)
    warnings: tuple[str, ...] = ()
    measured: JsonObject | None = None

    def to_json(self) -> JsonObject:
        """The answer of `isolora plan --reach --json`."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        adapter = adapter_words(self.method["name"], self.method.get("rank"))
        cost = [] if math.isnan(self.flops) else [f"{self.flops:.3g} FLOPs"]
        cost += [] if self.seconds is None else [f"about {time_in_words(self.seconds)}"]
        cost += [] if self.money is None else [f"{money_in_words(self.money)} in money"]
        examples = f" ({self.examples:,} examples)" if self.examples else ""
        lines = [
            f"{self.target} of {self.goal:g} takes {self.model}{adapter} on {self.tokens:,} tokens{examples}: {', '.join(cost)}",
            f"  95 % interval {', '.join(self._intervals())}",
            *(f"  mind: {sentence}" for sentence in self.warnings),
        ]
        return "\n".join(lines)

    def _intervals(self) -> Iterator[str]:
        """In tokens and in whatever else follows from them."""
        if self.tokens_interval == (None, None):
            yield "beyond the evidence on both sides"
            return
        shown: list[tuple[Sequence[float | None], Callable[[float], str], str]] = [
            (self.tokens_interval, "{:,}".format, " tokens"),
            (self.examples_interval, "{:,}".format, " examples"),
            (self.flops_interval, "{:.3g}".format, " FLOPs"),
            (self.seconds_interval, time_in_words, ""),
            (self.money_interval, money_in_words, " in money"),
        ]
        for (low, high), words, unit in shown:
            if low is not None or high is not None:
                yield " to ".join("beyond the evidence" if end is None else words(end) for end in (low, high)) + unit


def parse_reach(text: str) -> tuple[str, float]:
    """`loss=2.1` or `f1=0.9` as a target and a value. Raises UserError, naming the form."""
    name, equals, value = text.partition("=")
    try:
        goal = float(value)
    except ValueError:
        goal = math.nan
    if not (equals and name.strip() and math.isfinite(goal) and goal > 0):
        raise UserError(f"reach {text!r} is not understood (valid: a measure and a value above zero, such as loss=2.1, f1=0.9)")
    return name.strip(), goal


def reach(
    fit: Fit,
    table: Table,
    goal: float,
    limits: Limits | None = None,
    prices: Prices | None = None,
    price_per_hour: float | None = None,
) -> Reached:
    """The option that is predicted to reach the goal for the fewest FLOPs (seconds where the table has no FLOPs).

    `goal`: a score where the law is of 1 - score. Raises NoRecommendation when no option gets there within the evidence.
    """
    kept = limits or Limits()
    at_hand, assumed = kept_examples(table, kept.examples)
    kept, error = replace(kept, examples=at_hand), _error(fit, goal)
    aimed = targeted(table, fit.target).table
    demand_seen(fit, aimed)
    every = options(aimed, prices)
    demand_told(every, kept)
    fitting, untold = within_memory(every, kept)
    if not fitting:
        raise NoRecommendation(too_little_memory(every, kept), target=fit.target)
    curves = [(option, curve) for option in fitting if not option.rising and (curve := _Curve.of(fit, option, aimed, kept))]
    ways = [(option, curve, tokens) for option, curve in curves if (tokens := curve.first(curve.predicted, error))]
    ways = [way for way in ways if math.isfinite(_cost(way[0], way[2], kept))]
    unit = "seconds" if all(math.isnan(option.flops_per_token) for option in fitting) else "flops"
    measured = first_measured(within(aimed, kept), error, unit, kept.memory_bytes)
    if not ways:
        raise _out_of_reach(fit, [curve for _, curve in curves], goal, measured)
    option, curve, tokens = min(ways, key=lambda way: _cost(way[0], way[2], kept))
    measured = measured if measured and measured[unit] < 0.999 * tokens * option.price(unit) else None
    ends = (curve.since(curve.low, error, tokens), curve.first(curve.high, error))
    seconds, *seconds_ends = (_times(count, option.seconds_per_token) for count in (tokens, *ends))
    money, *money_ends = (_times(each, (price_per_hour or math.nan) / 3600) for each in (seconds, *seconds_ends))
    examples_ends = [None if end is None else option.examples_for(end, None) for end in ends]
    told = (*about_spending(option, kept, price_per_hour), *left_out_words(untold, len(every)), *assumed)
    return Reached(
        target=fit.target.removeprefix(ERROR_OF),
        goal=goal,
        model=option.model,
        method=option.adapter,
        learning_rate=option.rate_for(kept.examples),
        tokens=round(tokens),
        tokens_interval=(_rounded(ends[0]), _rounded(ends[1])),
        examples=option.examples_for(tokens, kept.examples),
        flops=tokens * option.flops_per_token,
        flops_interval=(_times(ends[0], option.flops_per_token), _times(ends[1], option.flops_per_token)),
        seconds=seconds,
        money=money,
        examples_interval=(examples_ends[0], examples_ends[1]),
        seconds_interval=(seconds_ends[0], seconds_ends[1]),
        money_interval=(money_ends[0], money_ends[1]),
        warnings=(*_warnings(fit, option, tokens, ends, measured), *told),
        measured=measured,
    )


def _error(fit: Fit, goal: float) -> float:
    """The goal as the law has it. Raises UserError for a score that no law gets to."""
    error = 1 - goal if fit.target.startswith(ERROR_OF) else goal
    if error <= 0:
        raise UserError(
            f"{fit.target.removeprefix(ERROR_OF)} of {goal:g} cannot be reached: a law approaches 1 and never gets there"
        )
    return error


@dataclass(frozen=True)
class _Curve:
    """An option's prediction and interval over tokens, (G,) each, from the fewest that a plan may have to the farthest."""

    tokens: Array
    predicted: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, fit: Fit, option: Option, table: Table, limits: Limits) -> _Curve | None:
        """None where the limits leave no tokens that anything is said about."""
        least = least_tokens(float(table["tokens"][table["tokens"] > 0].min()))
        unique = option.unique_tokens(limits.examples)
        farthest = most_tokens(fit, option, limits)
        if farthest < least or (limits.examples is not None and math.isnan(option.tokens_per_example)):
            return None
        tokens_G = np.geomspace(least, farthest, _GRID)
        rows = [option.columns(float(tokens), unique) for tokens in tokens_G]
        columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        low_G, high_G = fit.interval(columns)
        return cls(tokens_G, fit.predict(columns), low_G, high_G)

    def first(self, losses_G: Array, goal: float) -> float | None:
        """The fewest tokens at which a curve is at the goal, between two grid points by the logarithm of tokens."""
        reached = np.flatnonzero(losses_G <= goal)
        return self._crossed(losses_G, goal, int(reached[0])) if reached.size else None

    def since(self, losses_G: Array, goal: float, tokens: float) -> float:
        """The fewest tokens from which on a curve is at the goal all the way to `tokens`. Far below what was measured an interval
        is wide, and may reach down to anything."""
        above = np.flatnonzero((losses_G > goal) & (self.tokens < tokens))
        return min(self._crossed(losses_G, goal, int(above[-1]) + 1), tokens) if above.size else float(self.tokens[0])

    def _crossed(self, losses_G: Array, goal: float, at: int) -> float:
        """Where a curve comes down to the goal before point `at`."""
        if at == 0:
            return float(self.tokens[0])
        share = (losses_G[at - 1] - goal) / max(losses_G[at - 1] - losses_G[at], 1e-12)
        return float(np.exp(np.interp(share, [0, 1], np.log(self.tokens[at - 1 : at + 1]))))


def _cost(option: Option, tokens: float, limits: Limits) -> float:
    """FLOPs of training and of serving; seconds of a table without FLOPs."""
    unit = "seconds" if math.isnan(option.flops_per_token) else "flops"
    return option.price(unit) * tokens + option.serving(limits.serve_tokens, unit)


def _out_of_reach(fit: Fit, curves: Sequence[_Curve], goal: float, measured: JsonObject | None) -> NoRecommendation:
    name = fit.target.removeprefix(ERROR_OF)
    if not curves:
        reason = f"{name} of {goal:g} is out of reach: the limits leave no option as many tokens as anything is said about"
        return NoRecommendation(reason, target=fit.target)
    best = min(float(curve.predicted.min()) for curve in curves)
    shown = 1 - best if fit.target.startswith(ERROR_OF) else best
    already = f"; but {point_in_words(measured, fit.target)}" if measured else ""
    return NoRecommendation(
        f"{name} of {goal:g} is out of reach: the best that any option is predicted to reach within {FARTHEST:.0f} x its measured"
        f" tokens and the limits is {shown:.4g}{already}",
        target=fit.target,
    )


def _warnings(
    fit: Fit, option: Option, tokens: float, ends: tuple[float | None, float | None], measured: JsonObject | None
) -> list[str]:
    found = [f"a measured run was there for less: {point_in_words(measured, fit.target)}"] if measured else []
    if tokens < option.smallest_tokens / 1.05:
        found.append(f"{option.name} was measured from {option.smallest_tokens:,.0f} tokens on: an extrapolation downwards")
    if tokens > 1.05 * option.largest_tokens:
        found.append(f"{tokens / option.largest_tokens:.1f} x the tokens that {option.name} was followed for: an extrapolation")
    if ends[1] is None:
        found.append("with bad luck it is not reached within what the evidence supports")
    return found


def _rounded(tokens: float | None) -> int | None:
    return None if tokens is None else round(tokens)


def _times(amount: float | None, price: float) -> float | None:
    return None if amount is None or math.isnan(price) else amount * price
