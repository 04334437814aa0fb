"""How far a score could have come out otherwise on another test set of its size: the percentile bootstrap.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray


def interval(per_example: ArrayLike, repeats: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of scores [examples], in their unit; see interval_of."""
    values = np.asarray(per_example, np.float64)
    return interval_of(lambda rows: float(values[rows].mean()), len(values), repeats, seed)


def interval_of(
    statistic: Callable[[NDArray[np.int64]], float], examples: int, repeats: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of a statistic over `examples` test examples, in the statistic's unit.

    `statistic` maps indices [examples], drawn with replacement, to a number; the same seed draws the same indices, so two models
    may be compared on the same draws. The interval covers the choice of the test set alone, neither seeds nor training, and is
    too narrow for a few dozen examples; where every example scores the same it has no width.
    """
    random = np.random.default_rng(seed)
    draws = [statistic(random.integers(examples, size=examples)) for _ in range(repeats)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)
