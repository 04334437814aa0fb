"""How runs go on beyond the tokens that were seen: along the slope of their ends, which fades as fast as it was seen to fade.

A law with a floor bends, and how much is learnt from the whole of a curve, its steep first part included (warm-up, the
averaging of weights, the format). Adapters often go on nearly straight instead, log loss against log tokens, where pre-training
bends, or fall faster still. So the laws predict up to the tokens that were seen at a size, and from there the loss falls along
the runs' own slope, s(x) = s exp(-k x) at x = log tokens beyond the end. s and k come from the steps between neighbouring points
in the last half of every curve, pooled, k pulled towards what tables taught (docs/decisions/2026-11-30-the-bend-is-measured.md,
2026-12-01-slopes-that-grow.md). Runs of one seed see their data in one order, and rise and fall together: they count as one.
Array suffixes: M places, S steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from isolora.fit.fit_points import Points, by_group
from isolora.laws import GROUP_PREFIXES, Array, bunches

FEWEST_CURVES = 3
FEWEST_POINTS = 5
"""Curves that are compared, and points of a typical one: a run measured several times or, where runs are single points, all runs
of one size."""
_LEAST_COVERED = 0.6
"""Share of the points that must lie on curves."""
_SHORTEST = 1.5
"""Factor of tokens that a curve, and its last half, spans at least."""
_LAST = 0.5
_SAME, _WIDEST = 0.02, 0.1
"""Log tokens below which two points count as one, and over which no such bunch reaches: at every step of a run its neighbours
are that near, and its whole second half would be one point."""
_MOST_PASSES = 1.5
"""Passes from which on a curve tells of repeats rather than of new tokens."""
_DECAY, _DECAY_SPREAD = 0.1, 0.2
_ADAPTERS_DECAY, _ADAPTERS_DECAY_SPREAD = -0.1, 0.1
"""Decay of the slope for each unit of log tokens that tables taught: 0.2 to 0.5 in pre-training; in adapters slopes grow, by
nothing to a fifth, as in fine-tuning with few examples (Lin et al. 2402.02314: -0.1 to -0.5)."""
_FEW_WEIGHTS = 0.5
"""Of a base's weights, below which what is trained is an adapter."""
_SLOWEST, _FASTEST = -0.5, 2.0
"""Where the decay is looked for."""
_MOST_GROWTH, GROWN = 0.2, 2.3
"""Growth of a slope for each unit of log tokens that is foretold at most, and over how many units."""
_SHARED = 1.0
"""Curves' worth of pull of a group's slope towards that of all groups."""
_OTHER_GROUP = 100.0
"""Another method or family is farther than any size."""
_STEP = 1e-4
"""Of the decay, for its derivative."""


@dataclass(frozen=True)
class End:
    """Where curves of one size and method end: logarithms of their columns (n, methods), tokens, -d log loss / d log tokens.
    own: variance of that slope beyond the variance of all groups' together."""

    place: Mapping[str, float]
    tokens: float
    slope: float
    own: float = 0.0


@dataclass(frozen=True)
class Beyond:
    """What lies beyond the tokens seen, (M,) each: how much log loss falls from the end of the nearest curves, its standard
    deviation, log tokens since that end, the curves' slope there. `seen` are the places at the end."""

    fall: Array
    error: Array
    seen: Mapping[str, Array]
    away: Array
    slope: Array


@dataclass(frozen=True)
class Continuation:
    """The ends of all curves, how fast slopes fade, and the covariance of slope and decay: (slope's, both's, decay's). together:
    how many curves count as one, being of one seed."""

    ends: tuple[End, ...]
    decay: float
    covariance: tuple[float, float, float]
    together: float = 1.0

    def beyond(self, columns: Mapping[str, Array]) -> tuple[Array, Array]:
        """(log tokens beyond the end of the nearest curves (M,), 0 before it; their slope (M,))."""
        away_M, slope_M, _ = self._from_end(columns)
        return away_M, slope_M

    def fall(self, columns: Mapping[str, Array]) -> Beyond:
        """How the loss goes on at places."""
        away_M, slope_M, own_M = self._from_end(columns)
        unit_M = _faded(away_M, self.decay)
        by_decay_M = slope_M * (_faded(away_M, self.decay + _STEP) - unit_M) / _STEP
        slope, both, decay = self.covariance
        variance_M = unit_M**2 * (slope + own_M) + 2 * unit_M * by_decay_M * both + by_decay_M**2 * decay
        error_M = np.sqrt(np.maximum(variance_M, 0.0))
        return Beyond(slope_M * unit_M, error_M, places_at_end(columns, away_M), away_M, slope_M)

    def _from_end(self, columns: Mapping[str, Array]) -> tuple[Array, Array, Array]:
        """As `beyond`, and the slope's own variance (M,)."""
        nearest_M = np.array([_distances(columns, end) for end in self.ends]).argmin(axis=0)
        tokens_M, slope_M, own_M = np.array([(end.tokens, end.slope, end.own) for end in self.ends])[nearest_M].T
        return np.maximum(np.log(columns["d"] / tokens_M), 0.0), slope_M, own_M


def go_on(found: Continuation | None, columns: Mapping[str, Array]) -> Beyond:
    """As `Continuation.fall`; where nothing is known of how runs go on, no fall, and the places as they are."""
    if found is None:
        nothing_M = np.zeros_like(next(iter(columns.values())))
        return Beyond(nothing_M, nothing_M, columns, nothing_M, nothing_M)
    return found.fall(columns)


def places_at_end(columns: Mapping[str, Array], beyond_M: Array) -> dict[str, Array]:
    """The same places with as many fewer tokens, and FLOPs, in units of log tokens."""
    factor_M = np.exp(-beyond_M)
    shorter = {name: columns[name] * factor_M for name in ("d", "c") if name in columns}
    shorter |= {name: np.minimum(columns[name], shorter["d"]) for name in ("u",) if name in columns}
    return {**columns, **shorter}


def continuation(points: Points) -> Continuation | None:
    """What the curves of a table say; None where too few points lie on long enough curves, or where losses do not fall."""
    curves = _curves(points)
    covered = sum(curve.points for curve in curves)
    if len(curves) < FEWEST_CURVES or covered < _LEAST_COVERED * len(points):
        return None
    if np.median([len(curve.x) for curve in curves]) < FEWEST_POINTS:
        return None
    ends: dict[tuple[tuple[str, float], ...], float] = {}
    for curve in curves:
        ends[curve.key] = max(curve.x[-1], ends.get(curve.key, -np.inf))
    steps = [_steps(curve, ends[curve.key]) for curve in curves]
    x_S, slope_S, weight_S = np.concatenate(steps, axis=1)
    together = _curves_a_seed([curve.seed for curve in curves])
    slope, decay, covariance = _pooled(x_S, slope_S, weight_S, _believed_decay(points), together)
    if slope <= np.sqrt(covariance[0]):
        return None
    decay = max(decay, -_MOST_GROWTH)
    of_one_curve = covariance[0] * len(curves)
    found = [_end(key, end, curves, steps, (slope, of_one_curve), decay) for key, end in ends.items()]
    return Continuation(tuple(found), decay, covariance, together)


def about_shared_seeds(found: Continuation | None) -> str:
    """In words, where several runs count as one."""
    if found is None or found.together == 1:
        return ""
    return (
        "runs of one seed see their data in one order, and rise and fall together:"
        f" {found.together:.2g} of them count as one, and the interval is wider; give each run a seed of its own"
    )


def _curves_a_seed(seeds: Sequence[float]) -> float:
    """How many curves count as one: what a batch does to one run it does to all that meet it at the same tokens. Of six runs of
    one seed the slopes agreed to 0.003, between seeds they differed by 0.009 (docs/decisions/2026-11-30-one-order-of-data.md)."""
    known = [seed for seed in seeds if np.isfinite(seed)]
    return len(seeds) / (len(set(known)) + len(seeds) - len(known))


def _believed_decay(points: Points) -> tuple[float, float]:
    """(decay, its standard deviation) before these points are looked at."""
    if {"p", "n"} <= points.columns.keys() and np.median(points.columns["p"] / points.columns["n"]) < _FEW_WEIGHTS:
        return _ADAPTERS_DECAY, _ADAPTERS_DECAY_SPREAD
    return _DECAY, _DECAY_SPREAD


@dataclass(frozen=True)
class _Curve:
    """Log tokens and log losses, ascending, of one run or one size: so many points, of the size and method in `key`; a run's
    seed, nan where it is not known."""

    key: tuple[tuple[str, float], ...]
    points: int
    seed: float
    x: Array
    y: Array


def _curves(points: Points) -> list[_Curve]:
    """One curve a run, or a size where runs are too short for curves."""
    if points.progress != "tokens":
        return []
    names = [name for name in points.columns if name == "n" or name.startswith(GROUP_PREFIXES)]
    logs_MN = np.log(np.stack([points.columns[name] for name in names], axis=1)) if names else np.zeros((len(points), 0))
    of_runs = float(np.median(np.bincount(points.run)[points.run])) >= FEWEST_POINTS
    sizes_M = np.unique(logs_MN, axis=0, return_inverse=True)[1].ravel() if names else points.run
    seed_R = np.array(points.seeds if points.seeds and of_runs else [np.nan] * len(points.names))
    found = [
        _Curve(
            tuple(zip(names, map(float, logs_MN[chosen[0]]), strict=True)),
            len(chosen),
            float(seed_R[points.run[chosen[0]]]),
            *_merged(points, chosen),
        )
        for chosen in _groups(points, points.run if of_runs else sizes_M)
    ]
    return [curve for curve in found if len(curve.x) > 2 and curve.x[-1] - curve.x[0] >= np.log(_SHORTEST)]


def _groups(points: Points, group_M: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The points of each group in order of tokens, less the groups that repeat their data."""
    passes_M = points.columns["d"] / points.columns["u"]
    for chosen in by_group(group_M, points.columns["d"]):
        if passes_M[chosen].max() <= _MOST_PASSES:
            yield chosen


def _merged(points: Points, chosen: NDArray[np.int64]) -> tuple[Array, Array]:
    """Log tokens and log losses, points at the same tokens as their mean."""
    x, y = np.log(points.columns["d"][chosen]), np.log(points.loss[chosen])
    same = bunches(x, _SAME, _WIDEST)
    count = np.bincount(same)
    return np.bincount(same, x) / count, np.bincount(same, y) / count


def _steps(curve: _Curve, end: float) -> Array:
    """(3, S): the middle of each step in the last half of a curve, in log tokens after `end`; its slope; its weight."""
    last = max(_LAST * (curve.x[-1] - curve.x[0]), np.log(_SHORTEST))
    first = min(int(np.searchsorted(curve.x, curve.x[-1] - last - 1e-6)), len(curve.x) - 3)
    x, y = curve.x[first:], curve.y[first:]
    width = np.diff(x)
    steps: Array = np.stack([(x[1:] + x[:-1]) / 2 - end, -np.diff(y) / width, width**2])
    return steps


def _pooled(
    x_S: Array, slope_S: Array, weight_S: Array, believed: tuple[float, float], together: float
) -> tuple[float, float, tuple[float, float, float]]:
    """Slope at the end, decay and their covariance: weighted least squares with what is believed about the decay."""
    weight_S = weight_S / weight_S.mean()
    straight = np.polyfit(x_S, slope_S, 1, w=np.sqrt(weight_S))
    squares = float((weight_S * (slope_S - np.polyval(straight, x_S)) ** 2).sum())
    sigma = max(np.sqrt(together * squares / max(len(x_S) - 2, 1)), 1e-9)
    usual, spread = believed

    def residuals(at: Array) -> Array:
        missed_S = np.sqrt(weight_S) / sigma * (at[0] * np.exp(-at[1] * x_S) - slope_S)
        return np.append(missed_S, (at[1] - usual) / spread)

    start = [float(np.average(slope_S, weights=weight_S)), usual]
    found = least_squares(residuals, start, bounds=([-np.inf, _SLOWEST], [np.inf, _FASTEST]), x_scale=[0.01, 0.1])
    covariance = np.linalg.inv(found.jac.T @ found.jac)
    return float(found.x[0]), float(found.x[1]), (float(covariance[0, 0]), float(covariance[0, 1]), float(covariance[1, 1]))


def _end(
    key: tuple[tuple[str, float], ...],
    end: float,
    curves: Sequence[_Curve],
    steps: Sequence[Array],
    shared: tuple[float, float],
    decay: float,
) -> End:
    """A group's own slope at its end, pulled towards that of all groups. shared: their slope, and the variance of one curve's."""
    own = [step for curve, step in zip(curves, steps, strict=True) if curve.key == key]
    x_S, slope_S, weight_S = np.concatenate(own, axis=1)
    mean = float(np.average(slope_S * np.exp(decay * x_S), weights=weight_S))
    slope, variance = shared
    count = len(own) + _SHARED
    pulled = (len(own) * mean + _SHARED * slope) / count
    return End(dict(key), float(np.exp(end)), max(pulled, 0.0), max(variance / count - variance / len(curves), 0.0))


def _faded(beyond_M: Array, decay: float) -> Array:
    """Integral of exp(-decay x) from 0 to `beyond`; growth, a decay below 0, ends after `GROWN`."""
    if abs(decay) < 1e-9:
        return beyond_M
    fading_M = np.minimum(beyond_M, GROWN) if decay < 0 else beyond_M
    faded_M: Array = -np.expm1(-decay * fading_M) / decay + (beyond_M - fading_M) * np.exp(-decay * fading_M)
    return faded_M


def _distances(columns: Mapping[str, Array], end: End) -> Array:
    """How far each place is from the curves of an end, (M,): in log size, methods first."""
    away_M = np.zeros(len(columns["d"]))
    for name, value in end.place.items():
        if name in columns:
            away_M = away_M + (_OTHER_GROUP if name.startswith(GROUP_PREFIXES) else 1.0) * np.abs(np.log(columns[name]) - value)
    return away_M
