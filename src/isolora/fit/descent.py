"""Many fits of one law at once: damped Newton steps on the summed Huber loss of the log residuals, all replicates in parallel.

The loss of Hoffmann et al. (2203.15556), run to true convergence: stopping early on its average made Chinchilla's own
intervals impossibly narrow (2404.10102). A parameter vector here is z = (log coefficients at the centre of the data,
shapes), so that a term's size and its exponent hardly correlate. K replicates, M points, C terms, Q shapes, Z = C + Q.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isolora.fit.repeats import Repeats, repeats
from isolora.laws import Array, Columns, Law

HUBER_DELTA = 1e-3
_SMALLEST_TERM = -9.0
"""Natural logarithm of the least share of the loss that a coefficient may have: beyond it the term is gone."""
_SHAPE_STEP = 1e-7
"""Of one-sided differences: rounding of terms of 30 or so is then about as small as what the curvature adds."""
_RIDGE = 1e-10
_EASED, _RAISED = 0.3, 2.0
"""What damping is multiplied by after a step that helped and after the first that did not; after each further one in a row by
twice as much (Nielsen's rule). Raised by 5 at once, fits whose term is vanishing crept along their valley: after 40 steps their
objective was 4.4 % above its end, with 2 it is 2.2 %. Raised by 2 each time, up to half of the bootstrap's fits gave up where
they began: at a kink of the loss, from where only short steps lead on."""
_QUIET = 4
"""Steps in a row that gained nothing, after which a fit has ended."""
_CACHED = 2**17
"""Numbers that are in work at a time, terms of all points and replicates: few enough for the processor's cache, enough for the
calls of a step not to count. 128 replicates of 10,000 points at once take 1.8 times as long as 4."""


@dataclass(frozen=True)
class Problem:
    """What stays fixed in a fit: the law, the points' logarithms (M,) and the box of z, (Z,) each.

    `repeats` are the places of the points where many share one; `share`, of a problem of places, is how many of the points are
    at each, (M,) with sum 1.
    """

    law: Law
    logs: Columns
    low: Array
    high: Array
    repeats: Repeats | None = None
    share: Array | None = None

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
        return cls(law, logs, np.array(low), np.array(high), repeats(logs))

    @property
    def at_places(self) -> Problem:
        """The same problem with one point for each place; itself where points do not share places."""
        if self.repeats is None:
            return self
        share = self.repeats.count / self.repeats.count.sum()
        return replace(self, logs=self.repeats.places(self.logs), repeats=None, share=share)

    @property
    def cells(self) -> int:
        """Numbers that a replicate's terms consist of, and those of its points where their places are fewer."""
        terms = len(self.law.coefficients) * len(next(iter(self.at_places.logs.values())))
        return max(terms + (0 if self.repeats is None else len(self.repeats.order)), 1)

    def centred_terms(self, shapes_KQ: Array) -> tuple[Array, Array]:
        """Log terms (K, C, M) less their mean over the points, and that mean (K, C)."""
        terms_KCM = self.law.log_terms(shapes_KQ, self.logs)
        centre_KC = terms_KCM.sum(axis=2) / terms_KCM.shape[2] if self.share is None else terms_KCM @ self.share
        return terms_KCM - centre_KC[:, :, None], centre_KC

    def theta(self, z_KZ: Array) -> Array:
        """The law's own parameters (K, T) behind z."""
        count = len(self.law.coefficients)
        _, centre_KC = self.at_places.centred_terms(z_KZ[:, count:])
        return np.concatenate([np.exp(z_KZ[:, :count] - centre_KC), self.law.natural(z_KZ[:, count:])], axis=1)

    def z(self, theta_KT: Array) -> Array:
        """The inverse of `theta`, clipped into the box."""
        count = len(self.law.coefficients)
        shapes_KQ = self.law.searched(theta_KT[:, count:])
        _, centre_KC = self.at_places.centred_terms(shapes_KQ)
        floor = np.exp(self.low[:count])
        logs_KC = np.log(np.maximum(theta_KT[:, :count] * np.exp(centre_KC), floor))
        z_KZ: Array = np.clip(np.concatenate([logs_KC, shapes_KQ], axis=1), self.low, self.high)
        return z_KZ

    def log_loss(self, z_KZ: Array) -> Array:
        """Predicted log loss (K, M)."""
        return self.mixture(z_KZ).log_loss

    def mixture(self, z_KZ: Array) -> Mixture:
        """The law at z: its terms and what they add up to."""
        count = len(self.law.coefficients)
        terms_KCM, _ = self.centred_terms(z_KZ[:, count:])
        exponent_KCM = terms_KCM + z_KZ[:, :count, None]
        peak_K1M = exponent_KCM.max(axis=1, keepdims=True)
        share_KCM = np.exp(np.subtract(exponent_KCM, peak_K1M, out=exponent_KCM), out=exponent_KCM)
        total_K1M = share_KCM.sum(axis=1, keepdims=True)
        share_KCM /= total_K1M
        return Mixture(terms_KCM, share_KCM, (peak_K1M + np.log(total_K1M))[:, 0])

    def slopes(self, z_KZ: Array, at: Mixture) -> Array:
        """Derivatives (K, Z, M) of the log loss by z, where `at` is the mixture; by shapes as differences of the terms."""
        count = len(self.law.coefficients)
        slopes_KZM = np.empty((len(z_KZ), z_KZ.shape[1], at.log_loss.shape[1]))
        slopes_KZM[:, :count] = at.share
        for q in range(count, z_KZ.shape[1]):
            step_Q = np.zeros(len(self.law.shapes))
            step_Q[q - count] = _SHAPE_STEP
            ahead_KCM, _ = self.centred_terms(z_KZ[:, count:] + step_Q)
            ahead_KCM -= at.terms
            np.einsum("kcm,kcm->km", ahead_KCM, at.share, out=slopes_KZM[:, q])
        slopes_KZM[:, count:] /= _SHAPE_STEP
        return slopes_KZM


@dataclass(frozen=True)
class Mixture:
    """Centred log terms (K, C, M), the share of each in the loss (K, C, M) and the log loss (K, M)."""

    terms: Array
    share: Array
    log_loss: Array

    def of(self, chosen: NDArray[np.int64]) -> Mixture:
        """Of some replicates only."""
        return Mixture(self.terms[chosen], self.share[chosen], self.log_loss[chosen])

    def update(self, chosen: NDArray[np.int64], other: Mixture, kept: NDArray[np.bool_]) -> None:
        """Take over, at `chosen`, what `other` has where `kept`."""
        self.terms[chosen], self.share[chosen] = other.terms[kept], other.share[kept]
        self.log_loss[chosen] = other.log_loss[kept]


def huber(residual: Array, delta: float = HUBER_DELTA) -> Array:
    size = np.abs(residual)
    square = np.minimum(size, delta)
    size -= 0.5 * square
    return np.multiply(square, size, out=square)


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
    rows = max(_CACHED // problem.cells, 1)
    parts = [slice(first, first + rows) for first in range(0, count_K, rows)] or [slice(0, 0)]
    ended = [_descend(problem, z_KZ[part], target_KM[part], weight_KM[part], steps, tolerance) for part in parts]
    return Descent(
        np.concatenate([each.z for each in ended]),
        np.concatenate([each.objective for each in ended]),
        np.concatenate([each.converged for each in ended]),
    )


def _descend(problem: Problem, z_KZ: Array, target_KM: Array, weight_KM: Array, steps: int, tolerance: float) -> Descent:
    misfit = Misfit.of(problem, target_KM, weight_KM)
    at = misfit.problem.mixture(z_KZ)
    objective_K = misfit.objective(at)
    damping_K = np.ones(len(z_KZ))
    raised_K = np.full(len(z_KZ), _RAISED)
    quiet_K = np.zeros(len(z_KZ), dtype=int)
    for _ in range(steps):
        active = np.flatnonzero(quiet_K < _QUIET)
        if not active.size:
            break
        here, missed = at.of(active), misfit.of_rows(active)
        trial_AZ = np.clip(z_KZ[active] + missed.step(z_KZ[active], here, damping_K[active]), problem.low, problem.high)
        there = missed.problem.mixture(trial_AZ)
        trial_A = missed.objective(there)
        gain_A = objective_K[active] - trial_A
        better_A = gain_A > 0
        quiet_K[active] = np.where(gain_A > tolerance * objective_K[active], 0, quiet_K[active] + 1)
        damping_K[active] = np.clip(damping_K[active] * np.where(better_A, _EASED, raised_K[active]), 1e-4, 1e6)
        raised_K[active] = np.where(better_A, _RAISED, 2 * raised_K[active])
        moved = active[better_A]
        at.update(moved, there, better_A)
        z_KZ[moved], objective_K[moved] = trial_AZ[better_A], trial_A[better_A]
    return Descent(z_KZ, objective_K, quiet_K >= _QUIET)


@dataclass(frozen=True)
class Misfit:
    """What K fits bring down: the weighted Huber loss of M points about a law that is computed at their places."""

    problem: Problem
    target: Array
    weight: Array
    repeats: Repeats | None

    @classmethod
    def of(cls, problem: Problem, target_KM: Array, weight_KM: Array) -> Misfit:
        """Of targets and weights (K, M) of the problem's points."""
        shared = problem.repeats
        if shared is not None:
            target_KM, weight_KM = target_KM[:, shared.order], weight_KM[:, shared.order]
        return cls(problem.at_places, target_KM, weight_KM, shared)

    def of_rows(self, chosen: NDArray[np.int64]) -> Misfit:
        """Of some fits only."""
        return replace(self, target=self.target[chosen], weight=self.weight[chosen])

    def residual(self, at: Mixture) -> Array:
        """Predicted less measured log loss, (K, M)."""
        return (at.log_loss if self.repeats is None else self.repeats.spread(at.log_loss)) - self.target

    def objective(self, at: Mixture) -> Array:
        """(K,)."""
        objective_K: Array = (self.weight * huber(self.residual(at))).sum(axis=1)
        return objective_K

    def step(self, z_KZ: Array, at: Mixture, damping_K: Array) -> Array:
        """The damped Newton step (K, Z) from z, where `at` is the mixture."""
        slopes_KZP = self.problem.slopes(z_KZ, at)
        residual_KM = self.residual(at)
        size_KM = np.abs(residual_KM)
        pull_KP = self._at_places(self.weight * np.clip(residual_KM, -HUBER_DELTA, HUBER_DELTA))
        gradient_KZ = np.matmul(slopes_KZP, pull_KP[:, :, None])[:, :, 0]
        above_KM = HUBER_DELTA / np.maximum(size_KM, HUBER_DELTA)
        curvature_KP = self._at_places(self.weight * ((size_KM <= HUBER_DELTA) + damping_K[:, None] * above_KM))
        hessian_KZZ = (slopes_KZP * curvature_KP[:, None, :]) @ np.swapaxes(slopes_KZP, 1, 2)
        low, high = self.problem.low, self.problem.high
        held_KZ = ((z_KZ <= low) & (gradient_KZ > 0)) | ((z_KZ >= high) & (gradient_KZ < 0))
        return _solve(hessian_KZZ, gradient_KZ, held_KZ, damping_K)

    def _at_places(self, values_KM: Array) -> Array:
        return values_KM if self.repeats is None else self.repeats.total(values_KM)


def _solve(hessian_KZZ: Array, gradient_KZ: Array, held_KZ: NDArray[np.bool_], damping_K: Array) -> Array:
    free_KZ = ~held_KZ
    diagonal = np.arange(gradient_KZ.shape[1])
    scale_K = np.maximum(hessian_KZZ[:, diagonal, diagonal].max(axis=1), 1e-300)
    hessian_KZZ = hessian_KZZ * (free_KZ[:, :, None] & free_KZ[:, None, :])
    hessian_KZZ[:, diagonal, diagonal] += scale_K[:, None] * (held_KZ + _RIDGE + 1e-7 * damping_K[:, None])
    step_KZ1: Array = np.asarray(np.linalg.solve(hessian_KZZ, -(gradient_KZ * free_KZ)[:, :, None]), dtype=float)
    return step_KZ1[:, :, 0]
