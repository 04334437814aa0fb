"""How far off a prediction may be: heavy tails, what the parameters leave open, and errors that stay between 0 and 1.

A share measured on N examples, such as 1 - accuracy, scatters by sqrt(e (1 - e) / N), which relative to e is more the smaller e
is: noise seen at one level is too little for the better scores that a plan asks for. Laws of an error are on its logarithm,
their intervals on the logit scale. Laws on the logit scale predicted saturating scores worse (mean error 0.039 in place of
0.034 over 160 synthetic predictions at 4 and 10 x the tokens).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit, logit

from isolora.fit.distance import distance, growth
from isolora.laws import Array

if TYPE_CHECKING:
    from isolora.fit.continuation import Beyond
    from isolora.fit.result import Fit

TAILS = 7
"""Degrees of freedom of the interval's Student distribution: errors beyond the points have heavy tails."""
JUDGED_SHARE = 0.5
"""What counts of the bootstrap's spread where hold-outs were seen: their errors hold most of it already."""
EDGE_LEVEL = 0.975
"""Edges of pinned parameters are ends of a 95 % interval."""
MOST_ALONG = 0.1
"""Error at one unit of log tokens beyond the end of a curve, as a share of its slope, at most."""
UPPER = 1.05
"""What the upper side is longer by: a run can miss a law upwards in more ways (a rate that no longer suits, an unstable start)
than downwards, and on the public tables losses lay above 2.2 times as often as below without it, 1.7 times with it."""
_SMALLEST = 1e-6
_NEARLY_ALL = 0.9
"""Errors above it are stretched as it is: the logit scale has no end."""


def student_quantile(runs: int, level: float) -> float:
    """How many standard deviations the two sides of an interval of this level are long, for a law of so many runs."""
    from scipy import stats

    return float(stats.t.ppf(0.5 + level / 2, min(max(runs - 1, 2), TAILS)))


def edge_scale(level: float) -> float:
    """What the distance to an edge is multiplied by for an interval of another level than its own."""
    from scipy import stats

    return float(stats.norm.ppf(0.5 + level / 2) / stats.norm.ppf(EDGE_LEVEL))


def grown_error(fit: Fit, beyond: Beyond) -> Array:
    """Standard deviation (M,) of the error that grows with distance: the laws' up to the end of the curves, and from there along
    the curves, where errors are a share of their slope at most, or what is not known of slope and decay if that is more."""
    laws_M = fit.drift * np.sqrt(growth(distance(beyond.seen, fit.ranges)))
    along_M = np.minimum(fit.drift, MOST_ALONG * beyond.slope) * np.sqrt(growth(beyond.away))
    grown_M: Array = np.hypot(laws_M, np.maximum(along_M, beyond.error))
    return grown_M


def own_log_loss(fit: Fit, columns: Mapping[str, Array]) -> Array:
    """What the law itself says, without the laws that it is averaged with, (M,)."""
    own_M: Array = np.log(fit.shape.predict(np.array(list(fit.parameters.values())), columns))
    return own_M


def drawn_log_losses(fit: Fit, columns: Mapping[str, Array]) -> Array:
    """What the law says with the bootstrap's parameters, (K, M), its deviations stretched for few runs; one row without any."""
    own_M = own_log_loss(fit, columns)
    if not len(fit.draws):
        return own_M[None, :]
    drawn_KM: Array = own_M + fit.stretch * (np.log(fit.shape.predict(fit.draws, columns)) - own_M)
    return drawn_KM


def parameter_spread(fit: Fit, columns: Mapping[str, Array], level: float) -> tuple[Array, Array]:
    """Distances (M,) from the law's own log loss to the ends of the bootstrap's, and to what edges say if that is farther."""
    centre_M = own_log_loss(fit, columns)
    low_M, high_M = np.quantile(drawn_log_losses(fit, columns), [0.5 - level / 2, 0.5 + level / 2], axis=0)
    share = JUDGED_SHARE if fit.holdout else 1.0
    below_M, above_M = share * np.maximum(centre_M - low_M, 0.0), share * np.maximum(high_M - centre_M, 0.0)
    if not fit.edges:
        return below_M, above_M
    edge_JM = edge_scale(level) * (np.log(fit.shape.predict(np.array(list(fit.edges.values())), columns)) - centre_M)
    return np.maximum(below_M, -edge_JM.min(axis=0)), np.maximum(above_M, edge_JM.max(axis=0))


def noise_factor(error_M: Array, level: float) -> Array:
    """What relative noise seen where the error was `level` is multiplied by at other errors, (M,); never below 1."""
    odds_M = 1 / np.clip(error_M, _SMALLEST, 1 - _SMALLEST) - 1
    factor_M: Array = np.sqrt(np.maximum(odds_M / (1 / level - 1), 1.0))
    return factor_M


def bounded_ends(error_M: Array, below_M: Array, above_M: Array) -> tuple[Array, Array]:
    """Errors at distances in log error below and above, (M,) each: on the logit scale, where a distance in log error is that
    distance over 1 - e; near 1, where that says nothing about lower errors, on the scale of the logarithm."""
    centre_M, stretch_M = logit(np.clip(error_M, _SMALLEST, 1 - _SMALLEST)), 1 / (1 - np.minimum(error_M, _NEARLY_ALL))
    low_M = np.minimum(expit(centre_M - stretch_M * below_M), error_M * np.exp(-below_M))
    return low_M, expit(centre_M + stretch_M * above_M)
