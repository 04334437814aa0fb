"""What a fit of one law to points looks for, the law there, and its derivatives.

A parameter vector here is z = (log coefficients at the centre of the data, shapes), so that a term's size and its exponent
hardly correlate. K replicates, M points, C terms, Q shapes, Z = C + Q, D derivatives of a term by a shape.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from isolora.fit.derivatives import Derivatives
from isolora.fit.repeats import Repeats, repeats
from isolora.laws import Array, Columns, Law

_SMALLEST_TERM = -9.0
"""Natural logarithm of the least share of the loss that a coefficient may have: beyond it the term is gone."""
_LOOKED_AT = 8
"""Sets of shapes at which it is looked how they move a law's terms."""


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

    @cached_property
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
        centre_KC = self.centre(terms_KCM)
        return terms_KCM - centre_KC[:, :, None], centre_KC

    def centre(self, values: Array) -> Array:
        """Means over the points, the last axis."""
        means: Array = values.sum(axis=-1) / values.shape[-1] if self.share is None else values @ self.share
        return means

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
        terms_KCM = self.law.log_terms(z_KZ[:, count:], self.logs)
        added_KC = z_KZ[:, :count] - self.centre(terms_KCM)
        peak_K = (terms_KCM.max(axis=2) + added_KC).max(axis=1)
        share_KCM = terms_KCM + (added_KC - peak_K[:, None])[:, :, None]
        np.exp(share_KCM, out=share_KCM)
        total_KM = share_KCM.sum(axis=1)
        share_KCM /= total_KM[:, None]
        return Mixture(terms_KCM, share_KCM, np.log(total_KM) + peak_K[:, None])

    @cached_property
    def derivatives(self) -> Derivatives:
        """Which shapes move which terms, and how."""
        low_Q, high_Q = self.low[len(self.law.coefficients) :], self.high[len(self.law.coefficients) :]
        shapes_SQ = low_Q + np.random.default_rng(0).random((_LOOKED_AT, len(low_Q))) * (high_Q - low_Q)
        return Derivatives.seen(lambda shapes_KQ: self.law.log_terms(shapes_KQ, self.logs), self.centre, shapes_SQ, low_Q > 0)

    def slopes(self, z_KZ: Array, at: Mixture) -> Array:
        """Derivatives (K, Z, M) of the log loss by z, where `at` is the mixture."""
        return self.derivatives.slopes(at.share, self.moved(z_KZ, at) * at.share[:, self.derivatives.term])

    def moved(self, z_KZ: Array, at: Mixture) -> Array:
        """Derivatives of centred log terms by shapes, (K, D, M), or (1, D, M) where they are the same everywhere."""
        shapes_KQ = z_KZ[:, len(self.law.coefficients) :]
        return self.derivatives.at(shapes_KQ, at.terms)


@dataclass(frozen=True)
class Mixture:
    """Log terms (K, C, M), the share of each in the loss (K, C, M) and the log loss (K, M)."""

    terms: Array
    share: Array
    log_loss: Array

    def of(self, chosen: NDArray[np.bool_]) -> Mixture:
        """Of some replicates only."""
        return self if chosen.all() else Mixture(self.terms[chosen], self.share[chosen], self.log_loss[chosen])
