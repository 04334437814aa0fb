"""What a fit brings down: the summed Huber loss of the log residuals (Hoffmann et al., 2203.15556), and its shape near z.

K replicates, M points, P places, C terms, Z parameters, D derivatives of a term by a shape.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isolora.fit.problem import Mixture, Problem
from isolora.fit.repeats import Repeats
from isolora.laws import Array

HUBER_DELTA = 1e-3


def huber(residual: Array, delta: float = HUBER_DELTA) -> Array:
    size = np.abs(residual)
    square = np.minimum(size, delta)
    size -= 0.5 * square
    return np.multiply(square, size, out=square)


@dataclass(frozen=True)
class Parabola:
    """Near z: the gradient (K, Z); the Hessian (K, Z, Z), of the points within delta and of the law's own bend; and `above`
    (K, Z, Z), that of the parabola in the residuals that lies above the loss everywhere."""

    gradient: Array
    hessian: Array
    above: Array


@dataclass(frozen=True)
class Misfit:
    """The weighted Huber loss of M points about a law that is computed at their places. target: (M,); weight: (K, M)."""

    problem: Problem
    target: Array
    weight: Array
    repeats: Repeats | None

    @classmethod
    def of(cls, problem: Problem, target_M: Array, weight_KM: Array) -> Misfit:
        """Of targets and weights of the problem's points."""
        shared = problem.repeats
        if shared is not None:
            target_M, weight_KM = target_M[shared.order], weight_KM[:, shared.order]
        return cls(problem.at_places, target_M, weight_KM, shared)

    def of_rows(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> Misfit:
        """Of some fits only."""
        return replace(self, weight=self.weight[chosen])

    def residual(self, at: Mixture) -> Array:
        """Predicted less measured log loss, (K, M)."""
        return (at.log_loss if self.repeats is None else self.repeats.spread(at.log_loss)) - self.target

    def objective(self, residual_KM: Array) -> Array:
        """(K,)."""
        objective_K: Array = np.einsum("km,km->k", self.weight, huber(residual_KM))
        return objective_K

    def parabola(self, z_KZ: Array, at: Mixture, residual_KM: Array) -> Parabola:
        """Near z, where the mixture and the residuals are these.

        The bend of the law matters: along its valley, a smaller floor with a smaller exponent, few points lie within delta, and
        steps without it crept (half of them failed, and refits of a public table were left 6 % above their end).
        """
        size_KM = np.abs(residual_KM)
        pull_KP = self._at_places(self.weight * np.clip(residual_KM, -HUBER_DELTA, HUBER_DELTA))
        inside_KP = self._at_places(self.weight * (size_KM <= HUBER_DELTA))
        above_KP = self._at_places(self.weight * (HUBER_DELTA / np.maximum(size_KM, HUBER_DELTA)))
        moves = self.problem.derivatives
        moved_KDP = self.problem.moved(z_KZ, at)
        own_KDP = at.share[:, moves.term] * moved_KDP
        slopes_KZP = moves.slopes(at.share, own_KDP)
        gradient_KZ = np.matmul(slopes_KZP, pull_KP[:, :, None])[:, :, 0]
        weighted_KP = np.stack([inside_KP - pull_KP, above_KP], axis=1)
        products_KWZZ = _products(slopes_KZP, weighted_KP)
        hessian_KZZ = products_KWZZ[:, 0] + moves.bend(gradient_KZ, own_KDP * pull_KP[:, None], moved_KDP)
        return Parabola(gradient_KZ, hessian_KZZ, products_KWZZ[:, 1])

    def _at_places(self, values_KM: Array) -> Array:
        return values_KM if self.repeats is None else self.repeats.total(values_KM)


def _products(slopes_KZP: Array, weight_KWP: Array) -> Array:
    """Sums over the places of the slopes' products, under each row of weights, (K, W, Z, Z)."""
    count_K, count_W, count_P = weight_KWP.shape
    count_Z = slopes_KZP.shape[1]
    weighted = (weight_KWP[:, :, None] * slopes_KZP[:, None]).reshape(count_K, count_W * count_Z, count_P)
    products: Array = np.matmul(weighted, np.swapaxes(slopes_KZP, 1, 2)).reshape(count_K, count_W, count_Z, count_Z)
    return products
