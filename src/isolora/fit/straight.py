"""The straight continuation: where the loss would go if every run went on as it ended.

A law with a floor bends, and how much is learnt from the whole of a curve, its first steep part included. Adapters often go on
straight instead, log loss against log tokens, far beyond the points: on source code, after runs of 33,000 tokens, every law
predicted 3.06 or so for four times the compute, and 2.83 was measured, which is the straight line
(benchmarks/bench_calibration.py). The points cannot rule that out, so the interval reaches to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from isolora.fit.fit_points import Points
from isolora.laws import Array

FEWEST_RUNS, FEWEST_POINTS, SHORTEST = 3, 3, 1.5
"""Runs whose ends are compared; points at the end of each, and the factor of tokens that they span."""


def ending_slope(points: Points) -> tuple[float, float] | None:
    """Mean over runs of -d log loss / d log tokens at their ends, and its standard deviation; None where too few are curves."""
    slopes = np.array(list(_slopes(points)))
    return (float(slopes.mean()), float(slopes.std(ddof=1))) if len(slopes) >= FEWEST_RUNS else None


def _slopes(points: Points) -> Iterator[float]:
    for run in range(len(points.names)):
        of_run = np.flatnonzero(points.run == run)
        order = of_run[np.argsort(points.columns["d"][of_run], kind="stable")]
        end = order[-max(FEWEST_POINTS, len(order) // 2) :]
        d = points.columns["d"][end]
        if len(end) >= FEWEST_POINTS and d[-1] >= SHORTEST * d[0]:
            yield -float(np.polyfit(np.log(d), np.log(points.loss[end]), 1)[0])


def at_the_end(columns: Mapping[str, Array], tokens: float) -> tuple[dict[str, Array], Array]:
    """(the places with no more than `tokens` tokens, log of the factor that each lies beyond them (M,))."""
    beyond_M = np.maximum(np.log(columns["d"] / tokens), 0.0)
    shorter = {"d": np.minimum(columns["d"], tokens)}
    shorter |= {name: np.minimum(columns[name], shorter["d"]) for name in ("u",) if name in columns}
    shorter |= {name: columns[name] * np.exp(-beyond_M) for name in ("c",) if name in columns}
    return {**columns, **shorter}, beyond_M
