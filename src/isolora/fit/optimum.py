"""The best fit of a law to points, under one or several sets of weights: projected starts, then descent to convergence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isolora.fit.descent import descend
from isolora.fit.fit_points import Points
from isolora.fit.problem import Problem
from isolora.fit.projection import starts
from isolora.laws import Array, Law


@dataclass(frozen=True)
class Effort:
    """How hard to look: shapes sampled for starts, starts considered and kept for each set of weights, steps of descent at most,
    and the share of the objective below which a step's gain counts as none."""

    samples: int = 512
    considered: int = 8
    kept: int = 8
    steps: int = 300
    tolerance: float = 1e-9


_THOROUGH = Effort()
_POLISH_STEPS = 60


@dataclass(frozen=True)
class Optimum:
    """For each of K sets of weights (K, M) on `points` the best z (K, Z) and its summed objective (K,)."""

    problem: Problem
    points: Points
    weight: Array
    z: Array
    objective: Array

    @property
    def theta(self) -> Array:
        return self.problem.theta(self.z)

    @property
    def noise(self) -> float:
        """Standard deviation of a point about the first of the fits, for the parameters spent."""
        residual_M = self.problem.log_loss(self.z[:1])[0] - np.log(self.points.loss)
        return float(np.sqrt((residual_M**2).sum() / max(len(self.points) - self.z.shape[1], 1)))


def search_fit(law: Law, points: Points, weight_KM: Array, effort: Effort = _THOROUGH) -> Optimum:
    """Fits `law` under every row of weights; a weight of zero leaves a point out."""
    shapes_from = points.columns
    points, weight_KM = anchored(law, points, weight_KM)
    problem = Problem.of(law, points.columns, points.loss, shapes_from)
    log_loss_M = np.log(points.loss)
    start_KSZ = _starts(problem, log_loss_M, weight_KM, effort)
    count_K, count_S, count_Z = start_KSZ.shape
    weight_RM = np.repeat(weight_KM, count_S, axis=0)
    ended = descend(problem, start_KSZ.reshape(-1, count_Z), log_loss_M, weight_RM, effort.steps, effort.tolerance)
    best_K = ended.objective.reshape(count_K, count_S).argmin(axis=1)
    index_K = np.arange(count_K) * count_S + best_K
    return Optimum(problem, points, weight_KM, ended.z[index_K], ended.objective[index_K])


def _starts(problem: Problem, log_loss_M: Array, weight_KM: Array, effort: Effort) -> Array:
    """(K, kept, Z): of those that least squares finds best, the ones of the lowest objective."""
    start_KSZ = starts(problem, log_loss_M, weight_KM, effort.considered, effort.samples)
    if effort.kept >= effort.considered:
        return start_KSZ
    count_K, count_S, count_Z = start_KSZ.shape
    looked_at = descend(problem, start_KSZ.reshape(-1, count_Z), log_loss_M, np.repeat(weight_KM, count_S, axis=0), steps=0)
    best_KS = np.argsort(looked_at.objective.reshape(count_K, count_S), axis=1, kind="stable")[:, : effort.kept]
    return np.take_along_axis(start_KSZ, best_KS[:, :, None], axis=1)


def anchored(law: Law, points: Points, weight_KM: Array) -> tuple[Points, Array]:
    """The points and their weights, with those before any training behind them where the law has a value there.

    What the bare base scores was there before the first run: no cut-off leaves it out, and it weighs like one typical point.
    """
    if not law.anchored or points.start is None:
        return points, weight_KM
    typical_K1 = weight_KM.sum(axis=1, keepdims=True) / np.maximum((weight_KM > 0).sum(axis=1, keepdims=True), 1)
    return points.with_start(), np.concatenate([weight_KM, np.repeat(typical_K1, len(points.start), axis=1)], axis=1)


def fit_above(law: Law, points: Points, cut: float, weight_M: Array | None = None) -> Optimum:
    """One fit to the points from a lower cut on, of weight one unless weights (M,) of all points are given."""
    chosen_M = points.columns["d"] >= cut
    kept = points.where(chosen_M)
    weight_1M = np.ones((1, len(kept))) if weight_M is None else weight_M[chosen_M][None, :]
    return search_fit(law, kept, weight_1M)


def polish(law: Law, points: Points, theta_KT: Array, weight_KM: Array) -> Array:
    """Quick fits' parameters, each brought to convergence under its weights, (K, T)."""
    shapes_from = points.columns
    points, weight_KM = anchored(law, points, weight_KM)
    problem = Problem.of(law, points.columns, points.loss, shapes_from)
    ended = descend(problem, problem.z(theta_KT), np.log(points.loss), weight_KM, _POLISH_STEPS, tolerance=1e-6)
    return problem.theta(ended.z)
