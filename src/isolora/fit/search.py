"""The best fit of a law to points, under one or several sets of weights: projected starts, then descent to convergence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isolora.fit.descent import Problem, descend
from isolora.fit.points import Points
from isolora.fit.projection import starts
from isolora.laws import Array, Law

_STARTS = 8
_STEPS = 300


@dataclass(frozen=True)
class Found:
    """For each of K sets of weights on `points` the best z (K, Z) and its summed objective (K,)."""

    problem: Problem
    points: Points
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


def search(law: Law, points: Points, weight_KM: Array, kept: int = _STARTS, steps: int = _STEPS) -> Found:
    """Fits `law` under every row of weights; a weight of zero leaves a point out."""
    problem = Problem.of(law, points.columns, points.loss)
    log_loss_M = np.log(points.loss)
    start_KSZ = starts(problem, log_loss_M, weight_KM, kept)
    count_K, count_S, count_Z = start_KSZ.shape
    ended = descend(problem, start_KSZ.reshape(-1, count_Z), log_loss_M, np.repeat(weight_KM, count_S, axis=0), steps)
    best_K = ended.objective.reshape(count_K, count_S).argmin(axis=1)
    index_K = np.arange(count_K) * count_S + best_K
    return Found(problem, points, ended.z[index_K], ended.objective[index_K])


def fit_above(law: Law, points: Points, cut: float) -> Found:
    """One fit to the points from a lower cut on, all of weight one."""
    kept = points.where(points.columns["d"] >= cut)
    return search(law, kept, np.ones((1, len(kept))))
