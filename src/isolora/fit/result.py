"""A fitted law: what it learnt, what it predicts and how far off that may be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
from scipy import stats

from isolora import laws
from isolora.errors import TableError
from isolora.laws import Array, Law

_STATE_VERSION = 2


@dataclass(frozen=True)
class Fit:
    """What `fit` returns; every loss is in nats per token, every spread a share of the loss; of another `target` likewise.

    `parameters` and their 95 % `intervals` are in the law's own units. `objective` is the summed Huber loss over `points`
    points of `runs` trajectories above `cut` tokens. `holdout` tells how well the law foretold the largest budgets before
    it saw them, `candidates` all that competed. `draws` (K, T) are bootstrap parameters, `noise` the standard deviation of
    a point about the law, `drift` that of the error per unit of log distance beyond `ranges`, the fitted columns' ends.
    `rivals` are other laws (name, parameters) that foretold about as well, fitted to the same points.
    `left_out` counts the points that could not be used, by reason.
    """

    law: str
    parameters: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    objective: float
    points: int
    holdout: Mapping[str, Any]
    candidates: tuple[Mapping[str, Any], ...]
    cut: float
    runs: int
    noise: float
    drift: float
    ranges: Mapping[str, tuple[float, float]]
    draws: Array
    rivals: tuple[tuple[str, tuple[float, ...]], ...] = ()
    target: str = "loss"
    left_out: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def shape(self) -> Law:
        """The law itself."""
        return laws.resolve(self.law)

    def predict(self, columns: Mapping[str, Any]) -> Array:
        """Loss (M,) for columns n, d, p, u (those that the law needs; u is d where it is not given)."""
        return self.shape.predict(np.array(list(self.parameters.values())), self._complete(columns))

    def interval(self, columns: Mapping[str, Any], level: float = 0.95) -> tuple[Array, Array]:
        """Where the measured loss of a new trajectory will lie: lower and upper ends, (M,) each.

        Four shares, taken as independent: the parameters (bootstrap), the noise of one more run, the drift of reality from
        the law beyond the fitted range, as seen on the held-out budgets, and the disagreement of rival laws.
        """
        complete = self._complete(columns)
        log_loss_M = np.log(self.predict(complete))
        below_M, above_M = self._parameter_spread(complete, log_loss_M, level)
        drift_M, rivals_M = self.drift * self.distance(complete), self._disagreement(complete, log_loss_M)
        own_M = stats.t.ppf(0.5 + level / 2, max(self.runs - 1, 2)) * np.sqrt(self.noise**2 + drift_M**2 + rivals_M**2)
        return np.exp(log_loss_M - np.hypot(below_M, own_M)), np.exp(log_loss_M + np.hypot(above_M, own_M))

    def distance(self, columns: Mapping[str, Any]) -> Array:
        """How far beyond the fitted range, (M,): Euclidean over the law's columns, in units of natural logarithm."""
        complete = self._complete(columns)
        squares = [_beyond(complete[name], *self.ranges[name]) ** 2 for name in self.ranges]
        distance_M: Array = np.sqrt(np.sum(squares, axis=0))
        return distance_M

    def to_json(self) -> dict[str, Any]:
        """The answer of `isolora fit --json`."""
        return {
            "law": self.law,
            "target": self.target,
            "parameters": dict(self.parameters),
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "objective": self.objective,
            "points": self.points,
            "left_out": dict(self.left_out),
            "holdout": dict(self.holdout),
            "candidates": [dict(row) for row in self.candidates],
            "cut": self.cut,
        }

    def dumps(self) -> str:
        """Everything, as JSON text that `loads` reads back."""
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps({"version": _STATE_VERSION, **state, "draws": self.draws.tolist()})

    @classmethod
    def loads(cls, text: str) -> Fit:
        """Raises TableError when the text is no fit of this version."""
        state = json.loads(text)
        if state.pop("version", None) != _STATE_VERSION or set(state) != {field.name for field in fields(cls)}:
            raise TableError(f"not a fit written by this version of isolora (format {_STATE_VERSION})")
        pairs = {name: {key: tuple(ends) for key, ends in state[name].items()} for name in ("intervals", "ranges")}
        rivals = tuple((name, tuple(theta)) for name, theta in state["rivals"])
        draws = np.array(state["draws"], dtype=float).reshape(-1, len(state["parameters"]))
        return cls(**{**state, **pairs, "candidates": tuple(state["candidates"]), "draws": draws, "rivals": rivals})

    def __str__(self) -> str:
        lines = [
            f"{self.law}: {self.target} = {self.shape.formula}",
            f"  {self.points} points of {self.runs} runs from {self.cut:,.0f} tokens on",
        ]
        for name, value in self.parameters.items():
            low, high = self.intervals[name]
            lines.append(f"  {name} = {value:.4g}  [{low:.4g}, {high:.4g}]")
        lines.append(f"  noise {self.noise:.2%} of the {self.target}; objective {self.objective:.4g}")
        lines += [f"  left out: {count} points ({reason})" for reason, count in self.left_out.items()]
        if self.holdout:
            lines.append(
                f"  foretold {self.holdout['count']} held-out points of up to {self.holdout['factor']:.1f} x the fitted FLOPs:"
                f" error {self.holdout['mean']:.2%} on average, {self.holdout['max']:.2%} at worst"
            )
        return "\n".join(lines)

    def _complete(self, columns: Mapping[str, Any]) -> dict[str, Array]:
        complete = {name: np.atleast_1d(np.asarray(values, dtype=float)) for name, values in columns.items()}
        complete.setdefault("u", complete["d"])
        return complete

    def _disagreement(self, columns: Mapping[str, Array], log_loss_M: Array) -> Array:
        """Root mean square distance of the rivals' log losses from this law's, (M,), this law among them at zero."""
        squares = [
            (np.log(laws.resolve(name).predict(np.array(theta), columns)) - log_loss_M) ** 2 for name, theta in self.rivals
        ]
        distance_M: Array = np.sqrt(np.sum([np.zeros_like(log_loss_M), *squares], axis=0) / (1 + len(squares)))
        return distance_M

    def _parameter_spread(self, columns: Mapping[str, Array], log_loss_M: Array, level: float) -> tuple[Array, Array]:
        if not len(self.draws):
            return np.zeros_like(log_loss_M), np.zeros_like(log_loss_M)
        tails = [0.5 - level / 2, 0.5 + level / 2]
        low_M, high_M = np.quantile(np.log(self.shape.predict(self.draws, columns)), tails, axis=0)
        return np.maximum(log_loss_M - low_M, 0.0), np.maximum(high_M - log_loss_M, 0.0)


def _beyond(values_M: Array, low: float, high: float) -> Array:
    return np.maximum(0.0, np.maximum(np.log(values_M / high), np.log(low / values_M)))
