"""At most so many points to a fit: beyond them it is told by fewer runs of every size, evenly over compute, and says so.

A fit's time grows with its points: 20,000 of 2,000 runs took 100 s, 2,000 of 200 of them take 12, and foretold the same loss a
hundred times as much compute away (2.179, 2.090 to 2.276). Runs are kept or left out whole, so that the
bootstrap still weighs trajectories; of each size, adapter and method a few are always kept, the largest first. Where one run
alone has too many points, those kept lie evenly over the logarithm of its tokens. Points that share a place cost little
(`repeats`) and count a tenth.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isolora.fit.fit_points import Points, by_group
from isolora.fit.repeats import repeats
from isolora.laws import GROUP_PREFIXES, Array

MOST_POINTS = 2000
_OF_A_PLACE = 0.1
_FEWEST_RUNS = 6
"""Runs of each size, adapter and method that are kept, where there are so many."""
_LONG_RUN = 50
"""Points of a run that are kept, where no more runs than the most points allow have so many."""


def thinned(points: Points) -> Points:
    """The points, where they are few enough; else those of fewer runs."""
    if _cost(points) <= MOST_POINTS:
        return points
    points = points.where(_evenly_within_runs(points, max(MOST_POINTS // len(points.names), _LONG_RUN)))
    return points if _cost(points) <= MOST_POINTS else points.where(np.isin(points.run, _kept_runs(points)))


def thinning_summary(measured: Points, kept: Points) -> str:
    """What was left out of measured points, in words."""
    runs = len(measured.names) - len(kept.names)
    which = f"{runs:,} of {len(measured.names):,} runs, evenly over compute" if runs else "parts of long runs, evenly over tokens"
    return f"beyond the {MOST_POINTS:,} points that a fit takes: {which}"


def _cost(points: Points) -> float:
    """Points, those that share a place for a tenth each."""
    shared = repeats({name: column for name, column in points.columns.items() if name != "c"})
    return len(points) if shared is None else len(shared.first) + _OF_A_PLACE * len(points)


def _evenly_within_runs(points: Points, most: int) -> NDArray[np.int64]:
    """Rows of the points that are kept of each run, both its ends among them."""
    runs = by_group(points.run, points.columns["d"])
    return np.sort(np.concatenate([rows[_spread(np.log(points.columns["d"][rows]), most)] for rows in runs]))


def _spread(x: Array, most: int) -> NDArray[np.int64]:
    """Positions, at most so many, of ascending values that lie about evenly over their range."""
    if len(x) <= most:
        return np.arange(len(x))
    return np.unique(np.searchsorted(x, np.linspace(x[0], x[-1], most)).clip(0, len(x) - 1))


def _kept_runs(points: Points) -> NDArray[np.int64]:
    share = MOST_POINTS / len(points)
    return np.concatenate([runs[_evenly(len(runs), share)] for runs in _alike(points)])


def _evenly(count: int, share: float) -> NDArray[np.int64]:
    """Positions of that share of so many, the first and the last among them, or of a few."""
    kept = min(count, max(_FEWEST_RUNS, round(share * count)))
    return np.unique(np.linspace(count - 1, 0, kept).round().astype(np.int64))


def _alike(points: Points) -> list[NDArray[np.int64]]:
    """Numbers of the runs of each size, adapter and method, in order of their largest FLOPs."""
    largest_R = np.zeros(len(points.names))
    np.maximum.at(largest_R, points.run, points.flops)
    first_R = np.unique(points.run, return_index=True)[1]
    names = [name for name in points.columns if name in ("n", "p") or name.startswith(GROUP_PREFIXES)]
    kind_R = np.zeros(len(first_R), dtype=np.int64)
    if names:
        columns_RC = np.stack([points.columns[name][first_R] for name in names], axis=1)
        kind_R = np.unique(columns_RC, axis=0, return_inverse=True)[1].ravel()
    return by_group(kind_R, largest_R)
