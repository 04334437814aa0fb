"""Starts by variable projection (2603.22339): for each set of shapes the best non-negative coefficients, exactly.

Non-negative least squares of at most five terms is solved by trying every subset of them, all candidates at once.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy.stats import qmc

from isolora.fit.descent import Problem
from isolora.laws import Array


def starts(problem: Problem, log_loss_M: Array, weight_KM: Array, kept: int, samples: int = 512) -> Array:
    """The `kept` best starts for each row of weights: (K, kept, Z), from one low-discrepancy sample of the shapes.

    Points that share a place count there together, as their mean.
    """
    if (shared := problem.repeats) is not None:
        log_loss_M = shared.total(log_loss_M[None, shared.order])[0] / shared.count
        problem, weight_KM = problem.at_places, shared.total(weight_KM[:, shared.order])
    count = len(problem.law.coefficients)
    low_Q, high_Q = problem.low[count:], problem.high[count:]
    sample_SQ = qmc.Sobol(len(low_Q), scramble=False).random(samples) * (high_Q - low_Q) + low_Q
    for q, shape in enumerate(problem.law.shapes):
        if shape.start is not None:
            sample_SQ[::2, q] = shape.start
    terms_SCM, _ = problem.centred_terms(sample_SQ)
    relative_SCM = np.exp(terms_SCM - log_loss_M)
    chosen = []
    for weight_M in weight_KM:
        coefficients_SC, error_S = nonnegative(relative_SCM, weight_M)
        best = np.argsort(error_S, kind="stable")[:kept]
        logs_SC = np.log(np.maximum(coefficients_SC[best], np.exp(problem.low[:count])))
        chosen.append(np.concatenate([logs_SC, sample_SQ[best]], axis=1))
    return np.stack(chosen)


def nonnegative(terms_SCM: Array, weight_M: Array) -> tuple[Array, Array]:
    """Coefficients >= 0 that bring `terms @ coefficients` closest to one at every point, (S, C), and their error (S,)."""
    weighted_SCM = terms_SCM * weight_M
    gram_SCC = terms_SCM @ np.swapaxes(weighted_SCM, 1, 2)
    moment_SC = weighted_SCM.sum(axis=2)
    total = float(weight_M.sum())
    best_SC = np.zeros_like(moment_SC)
    error_S = np.full(len(moment_SC), total)
    for subset in _subsets(moment_SC.shape[1]):
        trial_SC = _solve_subset(gram_SCC, moment_SC, subset)
        quadratic_S = np.einsum("sc,scd,sd->s", trial_SC, gram_SCC, trial_SC)
        trial_S = total - 2 * (trial_SC * moment_SC).sum(axis=1) + quadratic_S
        better_S = (trial_SC >= 0).all(axis=1) & (trial_S < error_S)
        best_SC[better_S], error_S[better_S] = trial_SC[better_S], trial_S[better_S]
    return best_SC, error_S


def _subsets(count: int) -> list[list[int]]:
    return [list(subset) for size in range(1, count + 1) for subset in combinations(range(count), size)]


def _solve_subset(gram_SCC: Array, moment_SC: Array, subset: list[int]) -> Array:
    inner_SDD = gram_SCC[:, subset][:, :, subset]
    diagonal = np.arange(len(subset))
    inner_SDD[:, diagonal, diagonal] *= 1 + 1e-12
    trial_SC = np.zeros_like(moment_SC)
    trial_SC[:, subset] = np.linalg.solve(inner_SDD, moment_SC[:, subset][:, :, None])[:, :, 0]
    return trial_SC
