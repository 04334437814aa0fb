"""What a model answered on held-out documents, to be measured on all of them or on any draw from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isolora.metrics.bootstrap import intervals_of

Measure = Callable[[NDArray[np.int64]], dict[str, float]]


@dataclass(frozen=True)
class Predictions:
    """count: documents that are drawn apart; measure: their numbers, as often as drawn, to scores by name. A draw lacks a score
    of which it holds no case."""

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
