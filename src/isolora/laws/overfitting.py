"""A loss that rises again with passes: Chinchilla's law and an additive penalty in repeats (Lovelace et al. 2605.01640).

The penalty is P r^q, with r = d/u - 1 repeats of the u unique tokens: nothing within the first pass, more than the data term
falls by after many. The paper's one-coefficient form isolates overfitting; the exponent q is fitted here.
"""

from __future__ import annotations

import numpy as np

from isolora.laws.base import Array, Columns, Law, Shape, stack

_SOFT = 1e-2
"""Repeats that a first pass counts for, so that its logarithm is finite: a penalty of a thousandth of that at ten."""


def log_penalty(exponent_K1: Array, logs: Columns) -> Array:
    """Natural logarithm of r^q, (K, M)."""
    repeats_M = np.maximum(np.expm1(np.minimum(logs["d"] - logs["u"], 50.0)), 0.0)
    penalty_KM: Array = exponent_K1 * np.log(repeats_M + _SOFT)
    return penalty_KM


def _log_terms(shapes_KQ: Array, logs: Columns) -> Array:
    size_KM = -shapes_KQ[:, :1] * logs["n"]
    data_KM = -shapes_KQ[:, 1:2] * logs["d"]
    return stack(0.0, size_KM, data_KM, log_penalty(shapes_KQ[:, 2:], logs))


law = Law(
    name="overfitting",
    citation="Lovelace et al. 2605.01640",
    formula="E + A n^-a + B d^-b + P (d/u - 1)^q",
    coefficients=("E", "A", "B", "P"),
    shapes=(Shape("a"), Shape("b"), Shape("q", 0.5, 2.5)),
    demands={"n": 3, "d": 3, "u": 2},
    log_terms=_log_terms,
    sentence="the additive law with a penalty for repeats, so that too many passes make the loss rise again.",
    aliases=("lovelace",),
)
