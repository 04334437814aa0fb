"""How far beyond the measured points a place lies, and how fast errors grow with that."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from isolora.fit.fit_points import Points
from isolora.laws import Array

COMPUTE = "c"
"""The column of FLOPs: only more of it than was measured is far; the other columns are far on either side."""
RANDOM_WALK = 4.0
"""Units of log distance from which errors grow like the distance itself instead of its root."""


def ranges_of(points: Points, cut: float = 0.0) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of every column over the points from `cut` tokens on."""
    chosen_M = points.columns["d"] >= cut
    return {name: (float(values[chosen_M].min()), float(values[chosen_M].max())) for name, values in points.columns.items()}


def distance(columns: Mapping[str, Array], ranges: Mapping[str, tuple[float, float]]) -> Array:
    """Natural logarithm of the factor beyond the ranges, (M,): in compute, or Euclidean over the other columns if that is
    farther."""
    count = len(next(iter(columns.values())))
    squares_M = np.zeros(count)
    compute_M = np.zeros(count)
    for name in ranges.keys() & columns.keys():
        low, high = ranges[name]
        above_M = np.maximum(np.log(columns[name] / high), 0.0)
        if name == COMPUTE:
            compute_M = above_M
        else:
            squares_M += np.maximum(above_M, np.log(low / columns[name])) ** 2
    return np.maximum(compute_M, np.sqrt(squares_M))


def growth(distance_M: Array) -> Array:
    """Variance of the error at a distance in units of that at about one: a random walk at first, then a steady bend away."""
    return distance_M * (1 + distance_M / RANDOM_WALK)
