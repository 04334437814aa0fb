"""A fitted law: what it learnt, what it predicts and how far off that may be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from isolora import display, laws
from isolora.fit import written
from isolora.fit.averaging import AveragedLaw, weighted_mean
from isolora.fit.best_rates import RateEffect, rate_cost
from isolora.fit.continuation import Beyond, Continuation, go_on
from isolora.fit.distance import distance
from isolora.fit.interval import (
    UPPER,
    bounded_ends,
    drawn_log_losses,
    grown_error,
    noise_factor,
    parameter_spread,
    student_quantile,
)
from isolora.fit.law_columns import completed
from isolora.json_types import JsonMapping, JsonObject
from isolora.laws import Array, Law
from isolora.table import Table
from isolora.table.foreign import parsed_json

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

NEAR = 0.3
"""Log distance from which the level's signed error counts in full; within the points it does not count."""


@dataclass(frozen=True)
class Fit:
    """What `fit` returns; every loss is in nats per token, every spread a share of the loss; of another `target` likewise.

    `parameters` and their 95 % `intervals` are those of `law`, in its own units. `objective` is the summed Huber loss over
    `points` points of `runs` independent trajectories above `cut` tokens. `holdout` tells how well larger budgets were
    predicted from smaller ones, `candidates` all that were tried. `draws` (K, T) are bootstrap parameters, `stretch` what
    deviations of their predictions from the law's are multiplied by for the number of runs. `noise` is the standard deviation
    of a point about the law, `drift` that of the error at one unit of log distance beyond `ranges`, the fitted columns' ends,
    `shift` the signed error beyond them that the hold-outs saw. `members` are the laws whose weighted average predicts;
    without any it is the law alone. `price` is FLOPs a token and weight (`n`), for places that name no FLOPs. `rates` is what
    other learning rates cost. `ceiling` is the largest value that the target can have, and `level` the size of such an error
    where `noise` was seen. `continuation` is how losses go on beyond the tokens seen: see `isolora.fit.continuation`.
    `families` tells each base's family, where the law sets families apart. `left_out` counts the points that were not used,
    by reason. `pinned` are parameters at an end of where they were looked for, `edges` the law's parameters with each of them
    as far from there as the points allow; `remarks` are sentences, `known` is what the table knows of places by their names.
    """

    law: str
    parameters: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    objective: float
    points: int
    holdout: JsonMapping
    candidates: tuple[JsonMapping, ...]
    cut: float
    runs: int
    noise: float
    drift: float
    ranges: Mapping[str, tuple[float, float]]
    draws: Array
    stretch: float = 1.0
    members: tuple[AveragedLaw, ...] = ()
    shift: float = 0.0
    price: float = 0.0
    rates: RateEffect | None = None
    target: str = "loss"
    ceiling: float = float("inf")
    level: float = 0.5
    continuation: Continuation | None = None
    families: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    pinned: tuple[str, ...] = ()
    edges: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    known: JsonMapping = field(default_factory=dict)

    @cached_property
    def shape(self) -> Law:
        """The law itself."""
        return laws.resolve(self.law)

    def predict(self, columns: JsonMapping) -> Array:
        """Loss (M,) for columns n, d, p, u, c (those that the laws need; u is d and c follows n and d where not given).

        Of several methods a column `method` says which one, of several families of bases a column `model` or `family`. A column
        `learning_rate` adds what a rate other than the best one costs.
        """
        complete = self._complete(columns)
        log_loss_M = self._continued(complete)[0]
        cost_M, _ = rate_cost(self.rates, columns, complete)
        return self._shifted(log_loss_M, distance(complete, self.ranges), cost_M)

    def interval(self, columns: JsonMapping, level: float = 0.95) -> tuple[Array, Array]:
        """Where the measured loss of a new trajectory will lie: lower and upper ends, (M,) each.

        Shares taken as independent: the noise of one more run, the laws' disagreement, and the larger of what errors grow by
        beyond the fitted range, as seen on the held-out budgets and in the curves' own slopes, and what the parameters leave open
        (bootstrap).
        """
        complete = self._complete(columns)
        log_loss_M, spread_M, beyond = self._continued(complete)
        cost_M, rate_M = rate_cost(self.rates, columns, complete)
        away_M = distance(complete, self.ranges)
        predicted_M = self._shifted(log_loss_M, away_M, cost_M)
        quantile = student_quantile(self.runs, level)
        below_M, above_M = parameter_spread(self, beyond.seen, level)
        drift_M = quantile * grown_error(self, beyond)
        noise_M = self.noise * (noise_factor(predicted_M, self.level) if self.bounded else 1.0)
        own_M = quantile * np.sqrt(noise_M**2 + spread_M**2 + rate_M**2)
        below_M, above_M = (np.hypot(own_M, np.maximum(drift_M, side_M)) for side_M in (below_M, above_M))
        above_M = UPPER * above_M
        if self.bounded:
            return bounded_ends(predicted_M, below_M, above_M)
        return predicted_M * np.exp(-below_M), predicted_M * np.exp(above_M)

    @property
    def unit_of_cut(self) -> str:
        """What `cut` counts: tokens, or FLOPs of a table that has no tokens."""
        return "FLOPs" if self.shape.last_resort else "tokens"

    @property
    def bounded(self) -> bool:
        """Whether the target is an error between 0 and 1."""
        return bool(np.isfinite(self.ceiling))

    def sampled(self, columns: JsonMapping) -> Array:
        """Log losses (K, M) as different laws would have them: the bootstrap's draws, and the averaged laws as often as their
        weights say. What they disagree about is not known."""
        complete = self._complete(columns)
        beyond = go_on(self.continuation, complete)
        drawn_KM = drawn_log_losses(self, beyond.seen)
        count = len(drawn_KM)
        others = [np.tile(m.log_loss(beyond.seen), (round(m.weight * count), 1)) for m in self.members if m.law != self.law]
        sampled: Array = np.concatenate([drawn_KM, *others])
        luck_K1 = np.random.default_rng(0).normal(size=(len(sampled), 1))
        return sampled - beyond.fall + luck_K1 * beyond.error

    def distance(self, columns: JsonMapping) -> Array:
        """How far beyond the fitted range, (M,), in units of natural logarithm: see `isolora.fit.distance`."""
        return distance(self._complete(columns), self.ranges)

    def to_json(self) -> JsonObject:
        """The answer of `isolora fit --json`: everything, so that `from_json` gives the same fit back."""
        return written.to_state(self)

    @classmethod
    def from_json(cls, state: JsonMapping) -> Fit:
        """Raises TableError when the object is no fit of this version."""
        return cls(**written.from_state(state))

    def dumps(self) -> str:
        """Everything, as JSON text that `loads` reads back."""
        return json.dumps(self.to_json())

    @classmethod
    def loads(cls, text: str) -> Fit:
        """Raises TableError when the text is no fit of this version."""
        return cls.from_json(parsed_json(text, "the fit"))

    def __str__(self) -> str:
        from isolora.fit.summary import summary

        return summary(self)

    def _repr_html_(self) -> str:
        return display.text_html(str(self))

    def plot(self, table: Table | None = None) -> PlotlyFigure:
        """The law's curves with the points of the table that it was fitted to; without one, alone over the fitted range."""
        return display.drawn("fit", self, table)

    def _complete(self, columns: JsonMapping) -> dict[str, Array]:
        return completed(columns, [self.law, *(member.law for member in self.members)], self.price, self.families)

    @cached_property
    def averaged(self) -> tuple[AveragedLaw, ...]:
        """The laws whose weighted average predicts: the members, or the law alone where there are none."""
        return self.members or (AveragedLaw(self.law, 1.0, tuple(self.parameters.values())),)

    def _continued(self, complete: Mapping[str, Array]) -> tuple[Array, Array, Beyond]:
        """(log loss (M,), the laws' disagreement (M,), how far beyond the tokens seen).

        Beyond the tokens seen the laws are asked about the end of the curves, from where the loss goes on as curves did.
        """
        beyond = go_on(self.continuation, complete)
        log_loss_M, spread_M = weighted_mean(self.averaged, beyond.seen)
        return log_loss_M - beyond.fall, spread_M, beyond

    def _shifted(self, log_loss_M: Array, away_M: Array, cost_M: Array) -> Array:
        """The laws' average with the signed error that hold-outs saw beyond the range, and what the rate costs."""
        predicted: Array = np.exp(log_loss_M - self.shift * np.minimum(away_M / NEAR, 1.0) + cost_M)
        return np.minimum(predicted, self.ceiling)
