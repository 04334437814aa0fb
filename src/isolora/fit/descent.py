"""Many fits of one law at once: damped Newton steps on the summed Huber loss of the log residuals, many replicates in parallel.

Run to true convergence: stopping early on its average made Chinchilla's own intervals impossibly narrow (2404.10102). A few dozen
replicates are in work at a time; where one has ended the next takes its place. K replicates, A of them in work, M points, Z
parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from isolora.fit.misfit import Misfit, Parabola
from isolora.fit.problem import Problem
from isolora.laws import Array

_RIDGE = 1e-10
_EASED, _RAISED = 0.3, 2.0
"""What damping is multiplied by after a step that helped and after the first that did not; after each further one in a row by
twice as much (Nielsen's rule)."""
_LEAST_DAMPING, _MOST_DAMPING = 0.1, 1e6
_QUIET = 5
"""Steps in a row that gained nothing, after which a fit has ended."""
_CACHED = 2**16
"""Numbers that are in work at a time, terms of all points and replicates: few enough for the processor's cache, enough for the
calls of a step not to count."""


@dataclass(frozen=True)
class Descent:
    """Where each replicate ended: z (K, Z), summed objective (K,), and whether its last steps no longer helped (K,)."""

    z: Array
    objective: Array
    converged: NDArray[np.bool_]


def descend(
    problem: Problem, z_KZ: Array, log_loss_M: Array, weight_KM: Array, steps: int = 200, tolerance: float = 1e-9
) -> Descent:
    """Minimises sum_m weight * huber(prediction - log loss) from each start, inside the box.

    `weight_KM` broadcasts over the replicates. The Hessian is the loss's own plus damping times the one of the parabola that lies
    above it everywhere: small damping is Newton, large damping a safe majorising step. A fit ends where a Newton step promises
    to gain less than `tolerance` of the objective, or where several in a row gained less.
    """
    z_KZ = np.clip(z_KZ, problem.low, problem.high)
    misfit = Misfit.of(problem, log_loss_M, np.broadcast_to(weight_KM, (len(z_KZ), len(log_loss_M))))
    ended = Descent(z_KZ, np.full(len(z_KZ), np.inf), np.zeros(len(z_KZ), dtype=bool))
    room = max(_CACHED // problem.cells, 1)
    work, waiting = _Work.start(z_KZ, 0, room), room
    while len(work.row):
        work.step(misfit.of_rows(work.row), tolerance)
        over_A = (work.quiet >= _QUIET) | (work.taken > steps)
        if over_A.any():
            work.hand_over(over_A, ended)
            count = int(over_A.sum())
            work, waiting = work.refilled(~over_A, _Work.start(z_KZ, waiting, count)), waiting + count
    return ended


@dataclass
class _Work:
    """Fits in work, (A, ...) each: their place among all, where they are, the parabola there, and how steps have fared."""

    row: NDArray[np.int64]
    z: Array
    objective: Array
    gradient: Array
    hessian: Array
    above: Array
    damping: Array
    raised: Array
    quiet: NDArray[np.int64]
    taken: NDArray[np.int64]

    @classmethod
    def start(cls, z_KZ: Array, first: int, count: int) -> _Work:
        """Fits from `first` on that nothing is known of: their first step is none, and what it finds an improvement."""
        row = np.arange(first, max(min(first + count, len(z_KZ)), first))
        ones_A, none_AZ = np.ones(len(row)), np.zeros((len(row), z_KZ.shape[1]))
        above_AZZ = np.repeat(np.eye(z_KZ.shape[1])[None], len(row), axis=0)
        none_A = np.zeros(len(row), dtype=np.int64)
        return cls(
            row,
            z_KZ[row],
            np.inf * ones_A,
            none_AZ,
            np.zeros_like(above_AZZ),
            above_AZZ,
            ones_A / _EASED,
            _RAISED * ones_A,
            none_A,
            none_A.copy(),
        )

    def step(self, misfit: Misfit, tolerance: float) -> None:
        """One step of every fit, taken where it helps."""
        low, high = misfit.problem.low, misfit.problem.high
        held_AZ = ((self.z <= low) & (self.gradient > 0)) | ((self.z >= high) & (self.gradient < 0))
        step_AZ = _solve(self.hessian + self.damping[:, None, None] * self.above, self.gradient, held_AZ, self.damping)
        promised_A = -0.5 * (np.where(held_AZ, 0.0, self.gradient) * step_AZ).sum(axis=1)
        trial_AZ = np.clip(self.z + step_AZ, low, high)
        there = misfit.problem.mixture(trial_AZ)
        residual_AM = misfit.residual(there)
        trial_A = misfit.objective(residual_AM)
        better_A = trial_A < self.objective
        self._judge(trial_A, promised_A, tolerance)
        self.z[better_A], self.objective[better_A] = trial_AZ[better_A], trial_A[better_A]
        if better_A.any():
            found = misfit.of_rows(better_A).parabola(trial_AZ[better_A], there.of(better_A), residual_AM[better_A])
            self._remember(better_A, found)

    def _judge(self, trial_A: Array, promised_A: Array, tolerance: float) -> None:
        """What a step says of the next: how far it may go, and whether there is one."""
        known_A = np.isfinite(self.objective)
        better_A = trial_A < self.objective
        least_A = tolerance * np.where(known_A, self.objective, 0.0)
        self.quiet = np.where(self.objective - trial_A > least_A, 0, self.quiet + 1)
        done_A = known_A & (promised_A >= 0) & (promised_A < least_A) & (self.damping <= 1)
        self.quiet[done_A] = _QUIET
        self.damping = np.clip(self.damping * np.where(better_A, _EASED, self.raised), _LEAST_DAMPING, _MOST_DAMPING)
        self.raised = np.where(better_A, _RAISED, 2 * self.raised)
        self.taken += 1

    def _remember(self, chosen: NDArray[np.bool_], found: Parabola) -> None:
        self.gradient[chosen], self.hessian[chosen], self.above[chosen] = found.gradient, found.hessian, found.above

    def hand_over(self, over_A: NDArray[np.bool_], ended: Descent) -> None:
        """Write down where those that are over have ended."""
        row = self.row[over_A]
        ended.z[row], ended.objective[row] = self.z[over_A], self.objective[over_A]
        ended.converged[row] = self.quiet[over_A] >= _QUIET

    def refilled(self, kept_A: NDArray[np.bool_], more: _Work) -> _Work:
        """Those that are not over, and others in place of those that are."""
        return _Work(*(np.concatenate([getattr(self, name)[kept_A], getattr(more, name)]) for name in _FIELDS))


_FIELDS = tuple(field.name for field in fields(_Work))


def _solve(hessian_KZZ: Array, gradient_KZ: Array, held_KZ: NDArray[np.bool_], damping_K: Array) -> Array:
    free_KZ = ~held_KZ
    diagonal = np.arange(gradient_KZ.shape[1])
    scale_K = np.maximum(hessian_KZZ[:, diagonal, diagonal].max(axis=1), 1e-300)
    hessian_KZZ = hessian_KZZ * (free_KZ[:, :, None] & free_KZ[:, None, :])
    hessian_KZZ[:, diagonal, diagonal] += scale_K[:, None] * (held_KZ + _RIDGE + 1e-7 * damping_K[:, None])
    step_KZ1: Array = np.asarray(np.linalg.solve(hessian_KZZ, -(gradient_KZ * free_KZ)[:, :, None]), dtype=float)
    return step_KZ1[:, :, 0]
