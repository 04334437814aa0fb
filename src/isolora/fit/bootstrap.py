"""How far a fit could have come out otherwise: whole trajectories weighed anew, a thousand fits at once.

Points of one run share its luck, so the run is what is resampled. Each replicate gives every run a random weight
(exponential, the fractional-random-weight bootstrap of Xu et al., The American Statistician 2020) instead of leaving
some out: the same spread to first order, and no replicate loses a size or a rank that the law needs. With few runs any
bootstrap is too narrow, so deviations are stretched by sqrt(G / (G - 1)) and by Student's t over the normal quantile, with
one degree of freedom for each run beyond the law's parameters (at least half the runs: the exponents of the tokens are
learnt within each). What is stretched is each parameter for its own interval, and each prediction for the prediction's; never
whole vectors of parameters, which lie in a curved valley: 1.8 times as far along a straight line, they foretell measured
points 5 to 20 % too high. On synthetic studies of 12 and 24 runs the 95 % intervals then held the truth in 94 to 99 % of repeats
(91 % for the parameter that fared worst), without it in 87 to 95 % (benchmarks/bench_fit.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isolora.fit.descent import descend
from isolora.fit.fit_points import Points
from isolora.fit.optimum import Optimum
from isolora.laws import Array

_HELD = 2**21
"""Weights of points that are held at a time, of 128 replicates at least."""
_STEPS = 60
"""Damped Newton steps from the fit itself: with 20 the interval of Chinchilla's floor under weighed points ended at 1.56, with
40 at 1.79, with 60 or 120 at 1.84."""
_FEWEST_UNITS = 6


@dataclass(frozen=True)
class Replicates:
    """Parameter vectors (K, T) of refits to reweighed trajectories; `apart`: each parameter stretched by itself; `stretch`: what
    deviations of predictions are multiplied by for the number of runs."""

    theta: Array
    apart: Array
    stretch: float


def replicates(found: Optimum, count: int, seed: int) -> Replicates:
    """count: how many refits."""
    problem, z_Z, points, weight_M = found.problem, found.z[0], found.points, found.weight[0]
    unit_M = resampled_units(points)
    weight_KU = np.random.default_rng(seed).exponential(size=(count, int(unit_M.max()) + 1))
    log_loss_M = np.log(points.loss)
    ends = []
    chunk = max(_HELD // len(points), 128)
    for first in range(0, count, chunk):
        weight_KM = weight_KU[first : first + chunk][:, unit_M] * weight_M
        start_KZ = np.repeat(z_Z[None, :], len(weight_KM), axis=0)
        ends.append(descend(problem, start_KZ, log_loss_M, weight_KM, _STEPS, tolerance=1e-5).z)
    z_KZ = np.concatenate(ends) if ends else np.empty((0, len(z_Z)))
    stretch = few_runs_stretch(int(unit_M.max()) + 1, len(z_Z))
    apart_KZ = np.clip(z_Z + stretch * (z_KZ - z_Z), problem.low, problem.high)
    return Replicates(problem.theta(z_KZ), problem.theta(apart_KZ), stretch)


def resampled_units(points: Points) -> NDArray[np.int64]:
    """What is weighed anew, (M,): runs, or, of very few runs, stretches of each in order of tokens.

    One run reweighed as a whole would come out the same every time, as if nothing were uncertain.
    """
    runs = len(points.names)
    if runs >= _FEWEST_UNITS:
        return points.run
    blocks = -(-_FEWEST_UNITS // runs)
    unit_M = np.zeros(len(points), dtype=np.int64)
    for run in range(runs):
        of_run = np.flatnonzero(points.run == run)
        order = of_run[np.argsort(points.columns["d"][of_run], kind="stable")]
        unit_M[order] = run * blocks + np.arange(len(order)) * blocks // len(order)
    return np.unique(unit_M, return_inverse=True)[1].astype(np.int64)


def few_runs_stretch(runs: int, parameters: int, level: float = 0.95) -> float:
    """What deviations are multiplied by: 1.26 for 12 runs and 5 parameters, 1.09 for 24 runs."""
    from scipy import stats  # 0.4 s to import, which a study's last lines do without

    tail = 0.5 + level / 2
    degrees = max(runs - parameters, runs // 2, 2)
    finite = runs / max(runs - 1, 1)
    return float(np.sqrt(finite) * stats.t.ppf(tail, degrees) / stats.norm.ppf(tail))
