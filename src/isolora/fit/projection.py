"""Starts by variable projection (2603.22339): for each set of shapes the best non-negative coefficients, exactly.

Non-negative least squares of at most five terms is solved by trying subsets of them, the largest first, for all candidates at
once, until one fulfils the conditions of the optimum. K rows of weights, S sets of shapes, C terms, M points, Q shapes.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from isolora.fit.problem import Problem
from isolora.laws import Array

_ROUNDING = 1e-9
_CACHED = 2**18
"""Products of terms that are held at a time."""


def starts(problem: Problem, log_loss_M: Array, weight_KM: Array, kept: int, samples: int = 512) -> Array:
    """The `kept` best starts for each row of weights: (K, kept, Z), from one low-discrepancy sample of the shapes.

    Points that share a place count there together, as their mean.
    """
    from scipy.stats import qmc

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
    coefficients_KSC, error_KS = nonnegative(np.exp(terms_SCM - log_loss_M), weight_KM)
    best_KS = np.argsort(error_KS, axis=1, kind="stable")[:, :kept]
    kept_KSC = np.take_along_axis(coefficients_KSC, best_KS[:, :, None], axis=1)
    logs_KSC = np.log(np.maximum(kept_KSC, np.exp(problem.low[:count])))
    return np.concatenate([logs_KSC, sample_SQ[best_KS]], axis=2)


def nonnegative(terms_SCM: Array, weight_KM: Array) -> tuple[Array, Array]:
    """Coefficients >= 0 that bring `terms @ coefficients` closest to one at every point, (K, S, C), and their error (K, S)."""
    gram_NCC, moment_NC = _normal_equations(terms_SCM, weight_KM)
    total_N = np.repeat(weight_KM.sum(axis=1), len(terms_SCM))
    best_NC, error_N = np.zeros_like(moment_NC), total_N.copy()
    open_N = np.arange(len(error_N))
    for subset in _subsets(moment_NC.shape[1]):
        gram_OCC, moment_OC = gram_NCC[open_N], moment_NC[open_N]
        trial_OC = _solve_subset(gram_OCC, moment_OC, subset)
        reached_OC = np.matmul(gram_OCC, trial_OC[:, :, None])[:, :, 0]
        trial_O = total_N[open_N] + (trial_OC * (reached_OC - 2 * moment_OC)).sum(axis=1)
        allowed_O = (trial_OC >= 0).all(axis=1)
        better_O = allowed_O & (trial_O < error_N[open_N])
        better_N = open_N[better_O]
        best_NC[better_N], error_N[better_N] = trial_OC[better_O], trial_O[better_O]
        optimal_O = allowed_O & (reached_OC >= (1 - _ROUNDING) * moment_OC).all(axis=1)
        open_N = open_N[~optimal_O]
    count_K, count_S = len(weight_KM), len(terms_SCM)
    return best_NC.reshape(count_K, count_S, -1), error_N.reshape(count_K, count_S)


def _normal_equations(terms_SCM: Array, weight_KM: Array) -> tuple[Array, Array]:
    """Gram matrices (K S, C, C) and moments (K S, C): what is a product for each point is made once for all weights."""
    count_K, (count_S, count_C, count_M) = len(weight_KM), terms_SCM.shape
    one, other = np.triu_indices(count_C)
    gram_KSCC = np.empty((count_K, count_S, count_C, count_C))
    rows = max(_CACHED // (len(one) * count_M), 1)
    for first in range(0, count_S, rows):
        part = slice(first, first + rows)
        products_KSX = _weighted_sums(terms_SCM[part, one] * terms_SCM[part, other], weight_KM)
        gram_KSCC[:, part, one, other] = gram_KSCC[:, part, other, one] = products_KSX
    moment_KSC = _weighted_sums(terms_SCM, weight_KM)
    return gram_KSCC.reshape(-1, count_C, count_C), moment_KSC.reshape(-1, count_C)


def _weighted_sums(values_SXM: Array, weight_KM: Array) -> Array:
    """(K, S, X)."""
    count_S, count_X, count_M = values_SXM.shape
    sums: Array = (weight_KM @ values_SXM.reshape(-1, count_M).T).reshape(-1, count_S, count_X)
    return sums


def _subsets(count: int) -> list[list[int]]:
    """Largest first."""
    return [list(subset) for size in range(count, 0, -1) for subset in combinations(range(count), size)]


def _solve_subset(gram_SCC: Array, moment_SC: Array, subset: list[int]) -> Array:
    inner_SDD = gram_SCC[:, subset][:, :, subset]
    diagonal = np.arange(len(subset))
    inner_SDD[:, diagonal, diagonal] *= 1 + 1e-12
    trial_SC = np.zeros_like(moment_SC)
    trial_SC[:, subset] = np.linalg.solve(inner_SDD, moment_SC[:, subset][:, :, None])[:, :, 0]
    return trial_SC
