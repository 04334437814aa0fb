"""Errors between 0 and 1, such as 1 - accuracy: noise that follows their size, and intervals that stay in their range.

A share measured on N examples scatters by sqrt(e (1 - e) / N), which relative to e is more the smaller e is: noise seen at
one level is too little for the better scores that a plan asks for. Laws of an error are on its logarithm, their intervals on
the logit scale. Laws on the logit scale predicted saturating scores worse (mean error 0.039 in place of 0.034 over 160
synthetic predictions at 4 and 10 x the tokens).
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit

from isolora.laws import Array

_SMALLEST = 1e-6
_NEARLY_ALL = 0.9
"""Errors above it are stretched as it is: the logit scale has no end."""


def noise_factor(error_M: Array, level: float) -> Array:
    """What relative noise seen where the error was `level` is multiplied by at other errors, (M,); never below 1."""
    odds_M = 1 / np.clip(error_M, _SMALLEST, 1 - _SMALLEST) - 1
    factor_M: Array = np.sqrt(np.maximum(odds_M / (1 / level - 1), 1.0))
    return factor_M


def ends(error_M: Array, below_M: Array, above_M: Array) -> tuple[Array, Array]:
    """Errors at distances in log error below and above, (M,) each: on the logit scale, where a distance in log error is that
    distance over 1 - e; near 1, where that says nothing about lower errors, on the scale of the logarithm."""
    centre_M, stretch_M = logit(np.clip(error_M, _SMALLEST, 1 - _SMALLEST)), 1 / (1 - np.minimum(error_M, _NEARLY_ALL))
    low_M = np.minimum(expit(centre_M - stretch_M * below_M), error_M * np.exp(-below_M))
    return low_M, expit(centre_M + stretch_M * above_M)
