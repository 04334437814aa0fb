"""Many fits of one law at once: damped Newton steps on the summed Huber loss of the log residuals, all replicates in parallel.

The loss of Hoffmann et al. (2203.15556), run to true convergence: stopping early on its average made Chinchilla's own
intervals impossibly narrow (2404.10102). A parameter vector here is z = (log coefficients at the centre of the data,
shapes), so that a term's size and its exponent hardly correlate. K replicates, M points, C terms, Q shapes, Z = C + Q.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isolora.laws import Array, Columns, Law

HUBER_DELTA = 1e-3
_SMALLEST_TERM = -9.0
"""Natural logarithm of the least share of the loss that a coefficient may have: beyond it the term is gone."""
_SHAPE_STEP = 1e-4
_RIDGE = 1e-10


@dataclass(frozen=True)
class Problem:
    """What stays fixed in a fit: the law, the points' logarithms (M,) and the box of z, (Z,) each."""

    law: Law
    logs: Columns
    low: Array
    high: Array

    @classmethod
    def of(cls, law: Law, columns: Columns, loss_M: Array, shapes_from: Columns | None = None) -> Problem:
        """`shapes_from` are the columns that shapes are looked for within, where those are fewer than all points."""
        logs = {name: np.log(columns[name]) for name in law.demands}
        within = logs if shapes_from is None else {name: np.log(shapes_from[name]) for name in law.demands}
        shape_bounds = [shape.bounds(within) for shape in law.shapes]
        level = float(np.log(loss_M).mean())
        count = len(law.coefficients)
        low = [level + _SMALLEST_TERM] * count + [low for low, _ in shape_bounds]
        high = [level + 2.0] * count + [high for _, high in shape_bounds]
        return cls(law, logs, np.array(low), np.array(high))

    def centred_terms(self, shapes_KQ: Array) -> tuple[Array, Array]:
        """Log terms (K, C, M) less their mean over the points, and that mean (K, C)."""
        terms_KCM = self.law.log_terms(shapes_KQ, self.logs)
        centre_KC = terms_KCM.mean(axis=2)
        return terms_KCM - centre_KC[:, :, None], centre_KC

    def theta(self, z_KZ: Array) -> Array:
        """The law's own parameters (K, T) behind z."""
        count = len(self.law.coefficients)
        _, centre_KC = self.centred_terms(z_KZ[:, count:])
        return np.concatenate([np.exp(z_KZ[:, :count] - centre_KC), self.law.natural(z_KZ[:, count:])], axis=1)

    def z(self, theta_KT: Array) -> Array:
        """The inverse of `theta`, clipped into the box."""
        count = len(self.law.coefficients)
        shapes_KQ = self.law.searched(theta_KT[:, count:])
        _, centre_KC = self.centred_terms(shapes_KQ)
        floor = np.exp(self.low[:count])
        logs_KC = np.log(np.maximum(theta_KT[:, :count] * np.exp(centre_KC), floor))
        z_KZ: Array = np.clip(np.concatenate([logs_KC, shapes_KQ], axis=1), self.low, self.high)
        return z_KZ

    def log_loss(self, z_KZ: Array) -> Array:
        """Predicted log loss (K, M)."""
        return self._mixture(z_KZ)[0]

    def log_loss_and_slopes(self, z_KZ: Array) -> tuple[Array, Array]:
        """Predicted log loss (K, M) and its derivatives by z (K, Z, M); shapes by central differences of the terms."""
        count = len(self.law.coefficients)
        log_loss_KM, share_KCM = self._mixture(z_KZ)
        slopes_KZM = np.empty((len(z_KZ), z_KZ.shape[1], log_loss_KM.shape[1]))
        slopes_KZM[:, :count] = share_KCM
        for q in range(count, z_KZ.shape[1]):
            step_Q = np.zeros(len(self.law.shapes))
            step_Q[q - count] = _SHAPE_STEP
            ahead_KCM, _ = self.centred_terms(z_KZ[:, count:] + step_Q)
            behind_KCM, _ = self.centred_terms(z_KZ[:, count:] - step_Q)
            slopes_KZM[:, q] = ((ahead_KCM - behind_KCM) * share_KCM).sum(axis=1) / (2 * _SHAPE_STEP)
        return log_loss_KM, slopes_KZM

    def _mixture(self, z_KZ: Array) -> tuple[Array, Array]:
        count = len(self.law.coefficients)
        terms_KCM, _ = self.centred_terms(z_KZ[:, count:])
        exponent_KCM = terms_KCM + z_KZ[:, :count, None]
        peak_K1M = exponent_KCM.max(axis=1, keepdims=True)
        parts_KCM = np.exp(exponent_KCM - peak_K1M)
        total_K1M = parts_KCM.sum(axis=1, keepdims=True)
        return (peak_K1M + np.log(total_K1M))[:, 0], parts_KCM / total_K1M


def huber(residual: Array, delta: float = HUBER_DELTA) -> Array:
    size = np.abs(residual)
    return np.where(size <= delta, 0.5 * residual**2, delta * (size - 0.5 * delta))


@dataclass(frozen=True)
class Descent:
    """Where each replicate ended: z (K, Z), summed objective (K,), and whether its last steps no longer helped (K,)."""

    z: Array
    objective: Array
    converged: NDArray[np.bool_]


def descend(
    problem: Problem, z_KZ: Array, log_loss_KM: Array, weight_KM: Array, steps: int = 200, tolerance: float = 1e-9
) -> Descent:
    """Minimises sum_m weight * huber(prediction - log loss) from each start, inside the box.

    `log_loss_KM` and `weight_KM` broadcast over the replicates. The Hessian is the Huber loss's own (points within delta)
    plus damping times the one of the quadratic that lies above it everywhere: small damping is Newton, large damping a
    safe majorising step.
    """
    count_K, count_M = len(z_KZ), np.shape(log_loss_KM)[-1]
    target_KM = np.broadcast_to(log_loss_KM, (count_K, count_M))
    weight_KM = np.broadcast_to(weight_KM, (count_K, count_M))
    z_KZ = np.clip(z_KZ, problem.low, problem.high)
    objective_K = (weight_KM * huber(problem.log_loss(z_KZ) - target_KM)).sum(axis=1)
    damping_K = np.ones(count_K)
    quiet_K = np.zeros(count_K, dtype=int)
    for _ in range(steps):
        active = np.flatnonzero(quiet_K < 3)
        if not active.size:
            break
        step_KZ = _step(problem, z_KZ[active], target_KM[active], weight_KM[active], damping_K[active])
        trial_KZ = np.clip(z_KZ[active] + step_KZ, problem.low, problem.high)
        trial_K = (weight_KM[active] * huber(problem.log_loss(trial_KZ) - target_KM[active])).sum(axis=1)
        gain_K = objective_K[active] - trial_K
        better_K = gain_K > 0
        quiet_K[active] = np.where(gain_K > tolerance * objective_K[active], 0, quiet_K[active] + 1)
        damping_K[active] = np.clip(damping_K[active] * np.where(better_K, 0.3, 5.0), 1e-4, 1e6)
        z_KZ[active[better_K]] = trial_KZ[better_K]
        objective_K[active[better_K]] = trial_K[better_K]
    return Descent(z_KZ, objective_K, quiet_K >= 3)


def _step(problem: Problem, z_KZ: Array, target_KM: Array, weight_KM: Array, damping_K: Array) -> Array:
    prediction_KM, slopes_KZM = problem.log_loss_and_slopes(z_KZ)
    residual_KM = prediction_KM - target_KM
    size_KM = np.abs(residual_KM)
    gradient_KZ = np.einsum("kzm,km->kz", slopes_KZM, weight_KM * np.clip(residual_KM, -HUBER_DELTA, HUBER_DELTA))
    above_KM = HUBER_DELTA / np.maximum(size_KM, HUBER_DELTA)
    curvature_KM = weight_KM * ((size_KM <= HUBER_DELTA) + damping_K[:, None] * above_KM)
    hessian_KZZ = (slopes_KZM * curvature_KM[:, None, :]) @ np.swapaxes(slopes_KZM, 1, 2)
    held_KZ = ((z_KZ <= problem.low) & (gradient_KZ > 0)) | ((z_KZ >= problem.high) & (gradient_KZ < 0))
    return _solve(hessian_KZZ, gradient_KZ, held_KZ, damping_K)


def _solve(hessian_KZZ: Array, gradient_KZ: Array, held_KZ: NDArray[np.bool_], damping_K: Array) -> Array:
    free_KZ = ~held_KZ
    diagonal = np.arange(gradient_KZ.shape[1])
    scale_K = np.maximum(hessian_KZZ[:, diagonal, diagonal].max(axis=1), 1e-300)
    hessian_KZZ = hessian_KZZ * (free_KZ[:, :, None] & free_KZ[:, None, :])
    hessian_KZZ[:, diagonal, diagonal] += scale_K[:, None] * (held_KZ + _RIDGE + 1e-7 * damping_K[:, None])
    step_KZ1: Array = np.asarray(np.linalg.solve(hessian_KZZ, -(gradient_KZ * free_KZ)[:, :, None]), dtype=float)
    return step_KZ1[:, :, 0]
