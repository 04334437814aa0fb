"""How a law's log terms move with its shapes: most by the same everywhere, or in proportion; the rest is told by differences.

A power's log term is a straight line in its exponent. That is seen at a few sets of shapes before a fit, so that its thousands of
steps compute anew only what bends. What a few sets do not show makes a step worse, never a fit: its objective is the law's own.
K replicates, M points, C terms, Q shapes, S sets of shapes, D derivatives, each of one term by one shape that moves it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from isolora.laws import Array

Terms = Callable[[Array], Array]
"""Log terms (K, C, M) of shapes (K, Q)."""
Means = Callable[[Array], Array]
"""Means over the points, the last axis."""

_STEP = 1e-7
"""Of one-sided differences: rounding of terms of 30 or so is then about as small as what the curvature adds."""
_NONE = 1e-6
"""Derivatives below it are rounding, in units of log loss."""
_SAME = 1e-5
"""Share of the largest derivative by which two differ at most that count as one."""


@dataclass(frozen=True)
class Derivatives:
    """Of term `term` by shape `shape`, (D,) each, less its mean over the points (`centre`): `fixed` (D, M) where it is the same
    for all of the so many `shapes`; where `in_proportion` (D,) the term is that many times its shape; the others are `bent` (D,).
    """

    terms_of: Terms
    centre: Means
    shapes: int
    shape: NDArray[np.int64]
    term: NDArray[np.int64]
    fixed: Array
    in_proportion: NDArray[np.bool_]
    bent: NDArray[np.bool_]

    @classmethod
    def seen(cls, terms_of: Terms, centre: Means, shapes_SQ: Array, positive_Q: NDArray[np.bool_]) -> Derivatives:
        """As at some sets of shapes; `positive_Q` says which shapes are never zero."""
        terms_SCM = terms_of(shapes_SQ)
        count = shapes_SQ.shape[1]
        shape_D, term_D = (index.ravel() for index in np.indices((count, terms_SCM.shape[1])))
        moved_SDM = _less_mean(_differences(terms_of, shapes_SQ, terms_SCM, shape_D, term_D), centre)
        moving_D = np.abs(moved_SDM).max(axis=(0, 2)) > _NONE
        shape_D, term_D, moved_SDM = shape_D[moving_D], term_D[moving_D], moved_SDM[:, moving_D]
        fixed_D = _alike(moved_SDM, moved_SDM[:1])
        share_SDM = _less_mean(terms_SCM[:, term_D], centre) / np.where(positive_Q, shapes_SQ, 1.0)[:, shape_D, None]
        in_proportion_D = ~fixed_D & positive_Q[shape_D] & _alike(moved_SDM, share_SDM)
        return cls(terms_of, centre, count, shape_D, term_D, moved_SDM[0], in_proportion_D, ~fixed_D & ~in_proportion_D)

    def at(self, shapes_KQ: Array, terms_KCM: Array) -> Array:
        """(K, D, M) at shapes, where the log terms are these; (1, D, M) where all are fixed."""
        if not (self.bent.any() or self.in_proportion.any()):
            return self.fixed[None]
        moved_KDM = np.empty((len(shapes_KQ), *self.fixed.shape))
        moved_KDM[:] = self.fixed
        for d in np.flatnonzero(self.in_proportion):
            np.divide(terms_KCM[:, self.term[d]], shapes_KQ[:, self.shape[d], None], out=moved_KDM[:, d])
        if self.bent.any():
            shape_B, term_B = self.shape[self.bent], self.term[self.bent]
            moved_KDM[:, self.bent] = _differences(self.terms_of, shapes_KQ, terms_KCM, shape_B, term_B)
        return _less_mean(moved_KDM, self.centre)

    def slopes(self, share_KCM: Array, own_KDM: Array) -> Array:
        """Derivatives (K, C + Q, M) of the log loss, given what the terms are of the loss and what each derivative adds to it."""
        by_shape_KQM = own_KDM if self._one_each else np.matmul(self._of_shape, own_KDM)
        return np.concatenate([share_KCM, by_shape_KQM], axis=1)

    def bend(self, gradient_KZ: Array, pulled_KDM: Array, moved_KDM: Array) -> Array:
        """What the sums over the terms of their derivatives' products add to the Hessian, (K, Z, Z), given the gradient and what
        each derivative adds to it at every point."""
        count = gradient_KZ.shape[1] - self.shapes
        bend_KZZ = np.zeros((*gradient_KZ.shape, gradient_KZ.shape[1]))
        diagonal = np.arange(count)
        bend_KZZ[:, diagonal, diagonal] = gradient_KZ[:, :count]
        bend_KZZ[:, self.term, count + self.shape] = bend_KZZ[:, count + self.shape, self.term] = pulled_KDM.sum(axis=2)
        products_KDD = np.matmul(pulled_KDM, np.swapaxes(moved_KDM, 1, 2)) * self._one_term
        by_shape_KQQ = products_KDD if self._one_each else self._of_shape @ products_KDD @ self._of_shape.T
        bend_KZZ[:, count:, count:] = by_shape_KQQ
        return bend_KZZ

    @cached_property
    def _of_shape(self) -> Array:
        """(Q, D): one where a derivative is by that shape."""
        one_where_QD: Array = (np.arange(self.shapes)[:, None] == self.shape).astype(float)
        return one_where_QD

    @cached_property
    def _one_term(self) -> NDArray[np.bool_]:
        """(D, D): pairs of derivatives of one term."""
        pairs: NDArray[np.bool_] = self.term[:, None] == self.term
        return pairs

    @cached_property
    def _one_each(self) -> bool:
        """Whether each shape moves one term."""
        return np.array_equal(self.shape, np.arange(self.shapes))


def _differences(
    terms_of: Terms, shapes_KQ: Array, terms_KCM: Array, shape_B: NDArray[np.int64], term_B: NDArray[np.int64]
) -> Array:
    """Of some terms by some shapes, (K, B, M), all from one look at the law."""
    chosen, at_B = np.unique(shape_B, return_inverse=True)
    count_B, (count_K, count_Q) = len(chosen), shapes_KQ.shape
    ahead_BKQ = shapes_KQ + _STEP * np.eye(count_Q)[chosen][:, None]
    ahead = terms_of(ahead_BKQ.reshape(count_B * count_K, count_Q)).reshape(count_B, *terms_KCM.shape)
    moved_KBM = np.empty((len(shapes_KQ), len(at_B), terms_KCM.shape[2]))
    for b, (at, term) in enumerate(zip(at_B, term_B, strict=True)):
        np.subtract(ahead[at, :, term], terms_KCM[:, term], out=moved_KBM[:, b])
    moved_KBM /= _STEP
    return moved_KBM


def _alike(moved_SDM: Array, other_SDM: Array) -> NDArray[np.bool_]:
    """Which derivatives (D,) are the others at every set of shapes."""
    near_D = _NONE + _SAME * np.abs(moved_SDM).max(axis=(0, 2), initial=0.0)
    alike_D: NDArray[np.bool_] = np.abs(moved_SDM - other_SDM).max(axis=(0, 2), initial=0.0) < near_D
    return alike_D


def _less_mean(moved_KDM: Array, centre: Means) -> Array:
    moved_KDM -= centre(moved_KDM)[:, :, None]
    return moved_KDM
