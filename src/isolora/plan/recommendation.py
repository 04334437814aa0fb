"""What to train for a budget: which base model and adapter, on how many tokens, and how good it will be.

The choice is prudent: a low prediction counts for little where it is only a long extrapolation, so options are compared by
the upper end of a one-sigma interval. Rank is nearly free in FLOPs, so among the ranks that the law cannot tell apart the
smallest is taken: it costs less memory and forgets less. Where the evidence carries no answer, `NoRecommendation` says so.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from isolora import display
from isolora.errors import TableError
from isolora.fit import Fit, Score, about_bounds, best_learning_rates, studied, targeted, value_words
from isolora.json_types import JsonObject
from isolora.laws import Array
from isolora.plan.budget import Budget, parse_budget
from isolora.plan.choice import ONE_SIGMA, affordable, choose, chosen_at, optimum, sizes_words, switches, tie
from isolora.plan.limits import Limits, demand_told, kept_examples, too_little_memory, within_memory
from isolora.plan.next_runs import next_runs
from isolora.plan.options import Option, Prices, adapter_words, options
from isolora.plan.recommendation_warnings import about_size, about_spending, warnings_about
from isolora.plan.refusal import NoRecommendation, best_measured, demand_seen, point_in_words, run_words, within
from isolora.table import Table

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

WIDEST, WIDEST_BOUNDED = 1.0, 0.3
"""Interval width, over the predicted loss or of an error between 0 and 1, beyond which nothing is recommended."""


@dataclass(frozen=True)
class Recommendation:
    """What to train, what it costs and what it will reach: loss in nats per token with its 95 % interval, or what else the
    law is of, its `target`, which every `loss` is then about.

    `examples` are distinct ones and `epochs` the passes over them; `seconds` is None where the table has no times, `flops` NaN
    where it has no FLOPs, `money` None without a price of an hour. `sensitivity` is what half and double the budget would give,
    `switches` are budgets (`budget_flops`) from which on another base (`model`) is chosen, `optimum` is the size and the tokens
    that the law would take if every size could be had, `measure_next` are runs that would narrow an extrapolation, `settings`
    what else the measured runs were trained with (`method.dropout=0.1`), where the study varies that, `budget` what was asked
    for: `flops` and `seconds` are less where a limit ends the training before.
    """

    model: str
    method: JsonObject
    learning_rate: float
    tokens: int
    examples: int | None
    epochs: float
    flops: float
    seconds: float | None
    predicted_loss: float
    interval: tuple[float, float]
    nearest_evidence: JsonObject
    warnings: tuple[str, ...]
    alternatives: tuple[JsonObject, ...]
    target: str = "loss"
    money: float | None = None
    sensitivity: JsonObject = field(default_factory=dict)
    switches: tuple[JsonObject, ...] = ()
    optimum: JsonObject | None = None
    measure_next: tuple[JsonObject, ...] = ()
    settings: str = ""
    budget: Budget | None = None

    def to_json(self) -> JsonObject:
        """The answer of `isolora plan --json`."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {**plain, "score": self.score.to_json() if self.score else None}

    @property
    def score(self) -> Score | None:
        """The prediction as a score, where the target is the error of one."""
        return Score.of(self.target, self.predicted_loss, self.interval)

    def __str__(self) -> str:
        passes = f"{self.epochs:.3g} passes" if self.epochs >= 1.005 else "1 pass"
        data = f"{self.tokens:,} tokens" + (f" ({self.examples:,} examples, {passes})" if self.examples else "")
        rate = "" if math.isnan(self.learning_rate) else f" at learning rate {self.learning_rate:g}"
        lines = [
            f"train {self.model}{adapter_words(self.method['name'], self.method.get('rank'))}{rate}",
            *([f"  with {self.settings}"] if self.settings else []),
            f"  on {data}: {self._spent()}",
            f"  expected {_expected(self.target, self.predicted_loss, self.interval)}",
            *(f"  with {name} the budget: {_sensitivity_words(self.target, found)}" for name, found in self.sensitivity.items()),
            *sizes_words(self.model, self.switches, self.optimum, self.budget or Budget(self.flops, "flops")),
            *(f"  mind: {sentence}" for sentence in self.warnings),
            *(f"  measure next: {run_words(run)}" for run in self.measure_next),
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return display.text_html(str(self))

    def plot(self) -> PlotlyFigure:
        """What every option is expected to reach for the budget, with its 95 % interval."""
        return display.drawn("plan", self)

    def _spent(self) -> str:
        parts = [] if math.isnan(self.flops) else [f"{self.flops:.3g} FLOPs"]
        parts += [] if self.seconds is None else [f"about {display.time_in_words(self.seconds)}"]
        parts += [] if self.money is None else [f"{display.money_in_words(self.money)} in money"]
        return ", ".join(parts)


def plan(
    fit: Fit,
    table: Table,
    budget: str | Budget,
    examples: float | None = None,
    memory_bytes: float | None = None,
    prices: Prices | None = None,
    forget_at_most: float | None = None,
    serve_tokens: float = 0.0,
) -> Recommendation:
    """The option whose loss the law expects to be low even with some bad luck; of equal ones the smallest rank.

    `examples` is how many there are to train on: tokens beyond them are further passes. None: as many as the runs of the table
    passed over, where they repeated theirs, else as many as it takes, as for infinity. Raises UserError for a budget that
    is none, TableError when no option fits the memory or a budget of time meets a table without times, NoRecommendation when
    a measured run already beats what could be recommended or the evidence does not reach so far.
    """
    bought = parse_budget(budget) if isinstance(budget, str) else budget
    at_hand, assumed = kept_examples(table, examples)
    limits = Limits(at_hand, memory_bytes, forget_at_most, serve_tokens)
    aimed = targeted(table, fit.target).table
    demand_seen(fit, aimed)
    priced = options(aimed, prices)
    fitting, untold = _fitting(priced, bought, limits)
    rows, left = _rows(fit, aimed, fitting, bought, limits)
    left += untold
    if not rows:
        raise _nothing_left(fit, aimed, fitting, bought, limits, left)
    index = choose([row for _, row in rows], tie(fit))
    row = rows[index][1]
    _demand_evidence(fit, aimed, fitting, bought, limits, row)
    _demand_better_than_measured(fit, aimed, bought, limits, row)
    found = _recommendation(fit, aimed, bought, limits, rows, index, fitting, left)
    minded = (*about_size(priced, rows[index][0], fitting), *about_spending(rows[index][0], limits, bought.price_per_hour))
    return replace(found, warnings=(*found.warnings, *minded, *assumed))


def _recommendation(
    fit: Fit,
    table: Table,
    budget: Budget,
    limits: Limits,
    rows: Sequence[tuple[Option, JsonObject]],
    index: int,
    fitting: Sequence[Option],
    left: Counter[str],
) -> Recommendation:
    option, row = rows[index]
    sensitivity = _sensitivity(fit, table, fitting, budget, limits)
    minded = tuple(warnings_about(fit, fitting, option, row, left, len(rows) + left.total(), sensitivity.get("half")))
    ahead = any("an extrapolation" in sentence for sentence in minded)
    names = ("model", "learning_rate", "examples", "epochs", "flops", "seconds", "predicted_loss", "money")
    return Recommendation(
        **{name: row[name] for name in names},
        tokens=round(row["tokens"]),
        method=option.adapter,
        interval=tuple(row["interval"]),
        nearest_evidence=_nearest(table, option, row["tokens"]),
        warnings=minded,
        alternatives=tuple(sorted((other for _, other in rows), key=lambda other: float(other["predicted_loss"]))),
        budget=budget,
        target=fit.target,
        sensitivity=sensitivity,
        switches=tuple(switches(partial(chosen_at, fit, fitting, limits, _smallest(table)), fitting, budget)),
        optimum=optimum(fit, fitting, option, budget, limits),
        measure_next=tuple(next_runs(fit, fitting, budget, limits.examples)) if ahead else (),
        settings=option.settings,
    )


def _fitting(priced: Sequence[Option], budget: Budget, limits: Limits) -> tuple[list[Option], Counter[str]]:
    if budget.unit == "seconds" and all(math.isnan(option.seconds_per_token) for option in priced):
        raise TableError(
            "a budget of time needs a seconds column in the table; name an accelerator (--on H100 --utilisation 0.4), or give the"
            " budget in flops"
        )
    if budget.unit == "flops" and all(math.isnan(option.flops_per_token) for option in priced):
        raise TableError("a budget of FLOPs needs a flops column in the table; give the budget in time, such as 2h")
    demand_told(priced, limits)
    fitting, untold = within_memory(priced, limits)
    if not fitting:
        raise TableError(too_little_memory(priced, limits))
    return fitting, untold


def _rows(
    fit: Fit, table: Table, fitting: Sequence[Option], budget: Budget, limits: Limits
) -> tuple[list[tuple[Option, JsonObject]], Counter[str]]:
    """What the budget buys with each option that may be trained, and how many are left out, by reason."""
    runs, left = affordable(fit, fitting, limits, _smallest(table), budget)
    return [(option, _row(fit, option, tokens, budget, limits)) for option, tokens in runs], left


def _smallest(table: Table) -> float:
    """Fewest tokens measured."""
    return float(table["tokens"][table["tokens"] > 0].min())


def _row(fit: Fit, option: Option, tokens: float, budget: Budget, limits: Limits) -> JsonObject:
    """What so many tokens cost with one option, and what they would reach."""
    unique_tokens = option.unique_tokens(limits.examples)
    columns = option.columns(tokens, unique_tokens)
    (low,), (high,) = fit.interval(columns)
    _, (prudent,) = fit.interval(columns, ONE_SIGMA)
    seconds = None if math.isnan(option.seconds_per_token) else tokens * option.seconds_per_token
    price = budget.price_per_hour
    return {
        "model": option.model,
        "method": option.method,
        "rank": option.rank or None,
        "learning_rate": option.rate_for(limits.examples),
        "tokens": tokens,
        "examples": option.examples_for(tokens, limits.examples),
        "epochs": max(1.0, tokens / unique_tokens),
        "flops": tokens * option.flops_per_token,
        "seconds": seconds,
        "money": None if price is None or seconds is None else seconds / 3600 * price,
        "predicted_loss": float(fit.predict(columns)[0]),
        "interval": [float(low), float(high)],
        "prudent_loss": float(prudent),
        "stopped_early": tokens < 0.99 * option.tokens(budget, limits.serve_tokens),
    }


def _nothing_left(
    fit: Fit, table: Table, fitting: Sequence[Option], budget: Budget, limits: Limits, left: Counter[str]
) -> NoRecommendation:
    reasons = "; ".join(f"{count} of {left.total()} options {reason}" for reason, count in left.items())
    measured = best_measured(within(table, limits), budget, limits.memory_bytes, limits.serve_tokens)
    served = [option for option in fitting if option.serving(limits.serve_tokens, budget.unit) < budget.amount]
    return NoRecommendation(f"a budget of {budget} leaves {reasons}", measured, next_runs(fit, served, budget), fit.target)


def _demand_evidence(fit: Fit, table: Table, fitting: Sequence[Option], budget: Budget, limits: Limits, row: JsonObject) -> None:
    """Raises NoRecommendation where the interval of the choice says nothing."""
    low, high = row["interval"]
    bounded = math.isfinite(fit.ceiling)
    if high - low > (WIDEST_BOUNDED if bounded else WIDEST * row["predicted_loss"]):
        score = Score.of(fit.target, row["predicted_loss"], (low, high))
        name, (low, high) = (score.name, score.interval) if score else (fit.target, (low, high))
        bounds = "".join(f"; {sentence}" for sentence in about_bounds(fit))
        reason = f"the evidence leaves {name} between {low:.3g} and {high:.3g}, too wide to choose by{bounds}"
        measured = best_measured(within(table, limits), budget, limits.memory_bytes, limits.serve_tokens)
        raise NoRecommendation(reason, measured, next_runs(fit, fitting, budget), fit.target)


def _demand_better_than_measured(fit: Fit, table: Table, budget: Budget, limits: Limits, row: JsonObject) -> None:
    """Raises NoRecommendation, naming the run, where one that was measured within the budget beats what is expected."""
    if limits.serve_tokens:
        return
    measured = best_measured(within(table, limits), budget, limits.memory_bytes)
    if measured is None or measured["loss"] >= row["predicted_loss"] * (1 - tie(fit)):
        return
    expected = value_words(fit.target, row["predicted_loss"])
    reason = (
        f"a measured run already beats what could be recommended: {point_in_words(measured, fit.target)}; the best option,"
        f" {row['model']}{adapter_words(row['method'], row['rank'])}, is expected at {expected}"
    )
    raise NoRecommendation(reason, measured, target=fit.target)


def _sensitivity(fit: Fit, table: Table, fitting: Sequence[Option], budget: Budget, limits: Limits) -> JsonObject:
    """What half and double the budget would choose and reach; nothing where that lies beyond the evidence."""
    found: JsonObject = {}
    for name, factor in (("half", 0.5), ("double", 2.0)):
        rows, _ = _rows(fit, table, fitting, budget.scaled(factor), limits)
        if rows:
            row = rows[choose([each for _, each in rows], tie(fit))][1]
            kept = ("model", "method", "rank", "tokens", "predicted_loss", "interval")
            found[name] = {key: row[key] for key in kept}
    return found


def _expected(target: str, predicted: float, interval: Sequence[float]) -> str:
    """A prediction in words; of a score the score, with the error that the law is of behind it."""
    score = Score.of(target, predicted, interval)
    unit = " nats" if target == "loss" else ""
    name, value, (low, high) = (score.name, score.predicted, score.interval) if score else (target, predicted, interval)
    behind = f" ({target} {predicted:.4f})" if score else ""
    return f"{name} {value:.4f}{unit}, 95 % interval {low:.4f} to {high:.4f}{behind}"


def _sensitivity_words(target: str, found: JsonObject) -> str:
    rank = f" of rank {found['rank']}" if found["rank"] else ""
    score = Score.of(target, found["predicted_loss"], found["interval"])
    value, (low, high) = (score.predicted, score.interval) if score else (found["predicted_loss"], found["interval"])
    return f"{found['model']}{rank} on {found['tokens']:,.0f} tokens, {value:.4f} ({low:.4f} to {high:.4f})"


def _nearest(table: Table, option: Option, tokens: float) -> JsonObject:
    """The measured point closest in log size, log trainable parameters and log tokens, of the option's method."""
    measured = best_learning_rates(studied(table))
    measured = measured.where(measured["tokens"] > 0)
    if option.method and "method" in measured:
        measured = measured.where(measured["method"].astype(str) == option.method)
    distance_M: Array = np.log(measured["tokens"] / tokens) ** 2
    own = {"body_parameters": option.body_parameters, "trainable_parameters": option.trainable_parameters}
    for name, value in own.items():
        if name in measured and math.isfinite(value):
            distance_M = distance_M + np.nan_to_num(np.log(measured[name] / value)) ** 2
    row = int(np.argmin(distance_M))
    names = {"run": str, "model": str, "rank": float, "tokens": float, "flops": float, "loss": float}
    return {name: kind(measured[name][row]) for name, kind in names.items() if name in measured}
