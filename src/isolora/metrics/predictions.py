"""A model's predictions on held-out documents, scored on all of them or on bootstrap draws from them, which give intervals.

Source of the percentile bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Measure = Callable[[NDArray[np.int64]], dict[str, float]]


@dataclass(frozen=True)
class Predictions:
    """count: of documents; measure: indices of documents, repeated as a bootstrap draws them, to scores by name. A draw without a
    case of a score lacks that score."""

    count: int
    measure: Measure

    @classmethod
    def of_means(cls, values: Mapping[str, ArrayLike]) -> Predictions:
        """Scores that are means of each document's own [documents]; NaN where a document has none."""
        table = {name: np.asarray(column, np.float64) for name, column in values.items()}

        def measure(rows: NDArray[np.int64]) -> dict[str, float]:
            drawn = {name: column[rows] for name, column in table.items()}
            counted = {name: column[~np.isnan(column)] for name, column in drawn.items()}
            return {name: float(column.mean()) for name, column in counted.items() if len(column)}

        return cls(len(next(iter(table.values()))), measure)

    def measures(self) -> dict[str, float]:
        """Scores on all documents, by name."""
        return self.measure(np.arange(self.count))

    def intervals(self, repeats: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
        """95 % interval of every measure; see `intervals_of`."""
        return intervals_of(self.measure, self.count, repeats, seed) if self.measures() else {}


def all_scores(predictions: Mapping[str, Predictions], of: Mapping[str, NDArray[np.int64]] | None = None) -> dict[str, float]:
    """Scores of several sets of documents, each with its key before their names. of: the documents that are meant; all where
    absent."""
    found: dict[str, float] = {}
    for prefix, part in predictions.items():
        scores = part.measures() if of is None else part.measure(of[prefix])
        found |= {prefix + name: value for name, value in scores.items()}
    return found


def interval_of(
    statistic: Callable[[NDArray[np.int64]], float], examples: int, repeats: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of a statistic over `examples` test examples, in the statistic's unit; see intervals_of."""
    return intervals_of(lambda rows: {"": statistic(rows)}, examples, repeats, seed)[""]


def intervals_of(
    statistics: Callable[[NDArray[np.int64]], Mapping[str, float]], examples: int, repeats: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % intervals of statistics over `examples` test examples, by name, each in its unit.

    `statistics` maps indices [examples], drawn with replacement, to numbers; the same seed draws the same indices, so two models
    may be compared on the same draws. The interval covers the choice of the test set alone, neither seeds nor training, and is
    too narrow for a few dozen examples; where every example scores the same it has no width. A statistic that a draw lacks, as
    none of its cases is in it, is judged by the other draws.
    """
    random = np.random.default_rng(seed)
    draws = [statistics(random.integers(examples, size=examples)) for _ in range(repeats)]
    drawn = {name: [draw[name] for draw in draws if name in draw] for name in statistics(np.arange(examples))}
    ends = {name: np.percentile(values, [2.5, 97.5]) for name, values in drawn.items() if values}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}
