"""One base model: what is left above the floor decays as a stretched exponential of the tokens (Kohlrausch 1854)."""

from __future__ import annotations

import numpy as np

from isolora.extend import Array, Columns, Law, Shape, stack


def log_terms(shapes_KQ: Array, logs: Columns) -> Array:
    """(K, 2, M) for K pairs of exponent and log T, and the logarithms of M token counts."""
    data_KM = -np.exp(shapes_KQ[:, :1] * (logs["d"] - shapes_KQ[:, 1:]))
    return stack(0.0, data_KM)


law = Law(
    name="stretched",
    citation="Kohlrausch 1854, Annalen der Physik 167",
    formula="E + B exp(-(d/T)^b)",
    coefficients=("E", "B"),
    shapes=(Shape("b"), Shape("T", low=-2.0, high=3.0, log=True, column="d")),
    demands={"d": 4},
    log_terms=log_terms,
    sentence="What is left above a floor decays ever more slowly with the tokens.",
)
