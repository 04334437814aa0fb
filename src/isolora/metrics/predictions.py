"""A model's predictions on held-out documents, scored on all of them or on a bootstrap draw from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isolora.metrics.score_intervals import intervals_of

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
