"""From rolling hold-outs to a prediction: weights of the candidates, the law to show, and how errors grow with distance.

Candidates that predicted the larger budgets well are averaged, in log loss, with weights score^-4 (less sharp for few
points): one law chosen by one hold-out missed the next one more often than the average did (benchmarks/bench_coverage.py).
What the average got wrong beyond each cut-off gives the level's signed error (`shift`) and its growth with distance
(`drift`), each pulled towards what other tables taught, since the cut-offs share most of their points.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from isolora.fit.distance import COMPUTE, distance, growth, ranges_of
from isolora.fit.fit_points import Points
from isolora.fit.rolling import Candidate, Rolled, Trim
from isolora.json_types import JsonObject
from isolora.laws import GROUP_PREFIXES, Array, Law

FAR_OFF = 8.0
"""Distance from the law, over the median of those points that it need not go through, from which on a point is a spike."""
_SKILL_POWER = 4.0
_ENOUGH_POINTS = 60
"""Points from which on skill counts in full: what a hold-out of a few noisy points says of two laws is mostly luck. With 15
points of a score one law alone was often kept, and 86 % of the measurements were inside, where it is 96 % with this."""
_LEAST_SHARE = 0.2
"""Of the best one's weight: candidates with less only add their disagreement."""
_MOST_MEMBERS = 12
_PRIOR_DRIFT = 0.01
"""Standard deviation of the log error at one unit of log compute beyond the points, as seen over the public tables of
benchmarks/bench_coverage.py (0.6 to 1.5 %), and how many cut-offs that experience counts for. Chosen on those tables: see
docs/decisions/2026-11-25-laws-are-averaged.md for what a source left out of the choice was covered to (0.92)."""
_PRIOR_CUTOFFS = 3.0
_LEAST_OF_SLOPE, _MOST_OF_SLOPE = 0.1, 0.3
_LEAST_OF_SCORE = 0.2
"""Bounds of that experience, as shares of how steeply the points fall in a unit of log compute: the errors of a curve that
hardly falls are small, and those of one that falls by half, as 1 - accuracy may, are not 1 %. The public tables fall by 3 to
12 %. Of a score at least a fifth: it may stop rising anywhere below 1."""
_UNJUDGED = 2.0
"""Times the experience, where nothing could be held out."""
_SLOPE_EMPHASIS = 0.5
_LEAST_DRIFT = 0.003
"""For points that do not fall at all: their law may still be wrong."""
_SHIFT_SHRINK = 1.0
"""Cut-offs without a signed error that the seen ones are averaged with."""
_NEAR = 0.1
_REPORTED_FACTOR = 4.0
"""The cut-off whose points are reported: the one whose largest budget is nearest to this over the fitted ones."""


@dataclass(frozen=True)
class Selection:
    """The law to show with its trim, the weighted candidates, and what the hold-outs say about errors yet to come."""

    law: Law
    trim: Trim
    members: tuple[Candidate, ...]
    noise: float
    shift: float = 0.0
    drift: float = 0.0
    level: float = 0.5
    holdout: JsonObject = field(default_factory=dict)
    candidates: tuple[dict[str, object], ...] = ()


@dataclass(frozen=True)
class _Missed:
    """Beyond one cut-off: signed log errors (H,), the members' disagreement (H,), the distance (H,), and which points."""

    stage: int
    error: Array
    spread: Array
    distance: Array

    @property
    def typical(self) -> Array:
        """The errors (H,) with single ones far off drawn in, as in `frontier_noise`."""
        far = far_off(np.abs(self.error))
        return np.clip(self.error, -far, far)


def select(rolled: Rolled, is_score: bool = False) -> Selection:
    """Weights, law, shift and drift from candidates that were judged at one cut-off or more."""
    weighted = _weighted(rolled.candidates, len(rolled.points))
    members = tuple(candidate for candidate in weighted if candidate.weight > 0)
    law, trim = _shown(members)
    noise = frontier_noise(rolled.points, members, trim.cut)
    missed = [found for stage in range(len(rolled.cutoffs)) if (found := _missed(rolled, members, stage))]
    shift = _shift(missed)
    return Selection(
        law=law,
        trim=trim,
        members=members,
        noise=noise,
        shift=shift,
        drift=_drift(missed, shift, noise, prior_drift(rolled.points, is_score)),
        level=frontier_level(rolled.points),
        holdout=_summary(rolled, missed),
        candidates=tuple(candidate.row() for candidate in weighted),
    )


def average(members: Sequence[Candidate], log_loss_KM: Sequence[Array]) -> tuple[Array, Array]:
    """Weighted mean of log losses, (M,), and the members' standard deviation about it."""
    weight_K = np.array([member.weight for member in members])
    weight_K = weight_K / weight_K.sum()
    stacked_KM = np.stack(log_loss_KM)
    mean_M = weight_K @ stacked_KM
    return mean_M, np.sqrt(weight_K @ (stacked_KM - mean_M) ** 2)


def far_off(gap_M: Array, met: int = 0) -> float:
    """The distance from which on a point is a spike, given all distances from the law (M,); `met`: points that a law of so many
    parameters goes through in any case."""
    return FAR_OFF * float(np.median(np.sort(gap_M)[min(met, len(gap_M) - 1) :]))


def frontier_noise(points: Points, members: Sequence[Candidate], cut: float) -> float:
    """Standard deviation of a point about the average, each point counting by its FLOPs: what the law does not explain.

    A member has no say about points below its own cut; points below `cut` do not count. Single points far off count as if they
    lay `FAR_OFF` times the usual distance away: one spike says nothing of the next run.
    """
    weight_KM = np.array([member.weight * (points.columns["d"] >= member.trim.cut) for member in members])
    total_M = weight_KM.sum(axis=0)
    fitted_M = (weight_KM * np.stack([member.fitted for member in members])).sum(axis=0) / np.maximum(total_M, 1e-12)
    counted_M = (total_M > 0) & (points.columns["d"] >= cut)
    weight_M = points.flops / points.flops.max() * counted_M
    spent = min(len(member.law.parameters) for member in members)
    gap_M = np.abs(np.log(points.loss) - fitted_M)
    squared = float((weight_M * np.minimum(gap_M, far_off(gap_M[counted_M], spent)) ** 2).sum() / weight_M.sum())
    count = int(counted_M.sum())
    return float(np.sqrt(squared * count / max(count - spent, 1)))


def _weighted(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    best, power = max(candidates[0].score, 1e-6), _SKILL_POWER * min(1.0, count / _ENOUGH_POINTS)
    weight_K = np.array([(max(candidate.score, 1e-6) / best) ** -power for candidate in candidates])
    weight_K[weight_K < _LEAST_SHARE * weight_K.max()] = 0.0
    weight_K[_MOST_MEMBERS:] = 0.0
    weight_K /= weight_K.sum()
    return [dataclasses.replace(c, weight=float(w)) for c, w in zip(candidates, weight_K, strict=True)]


def _shown(members: Sequence[Candidate]) -> tuple[Law, Trim]:
    """The law that weighs most over its trims, with its best trim."""
    totals: dict[str, float] = {}
    for member in members:
        totals[member.law.name] = totals.get(member.law.name, 0.0) + member.weight
    name = max(totals, key=lambda law: totals[law])
    best = min((member for member in members if member.law.name == name), key=lambda member: member.score)
    return best.law, best.trim


def _missed(rolled: Rolled, members: Sequence[Candidate], stage: int) -> _Missed | None:
    there = [member for member in members if stage in member.ahead]
    if not there:
        return None
    above_M = rolled.above(stage)
    mean_M, spread_M = average(there, [member.ahead[stage] for member in there])
    early, late = rolled.points.where(~above_M), rolled.points.where(above_M)
    read = {COMPUTE, *(name for member in members for name in member.law.demands)}
    ranges = {name: ends for name, ends in ranges_of(early).items() if name in read and not name.startswith(GROUP_PREFIXES)}
    away_H = distance(late.columns, ranges)
    return _Missed(stage, (mean_M - np.log(rolled.points.loss))[above_M], spread_M[above_M], away_H)


def _latest_first(count: int) -> Array:
    """Weights of cut-offs: later ones rest on more points and lie nearer to where predictions are asked for."""
    weight_S: Array = np.arange(1, count + 1, dtype=float)
    return weight_S / weight_S.mean() if count else weight_S


def _shift(missed: Sequence[_Missed]) -> float:
    means_S = np.array([found.typical.mean() for found in missed])
    return float((means_S * _latest_first(len(missed))).sum() / (len(missed) + _SHIFT_SHRINK))


def prior_drift(points: Points, is_score: bool = False) -> float:
    """What other tables taught about the error at one unit of distance, within bounds that the steepness of these points sets."""
    steepness = abs(_steepness(points))
    least = (_LEAST_OF_SCORE if is_score else _LEAST_OF_SLOPE) * steepness
    return float(np.clip(_PRIOR_DRIFT, least, max(_MOST_OF_SLOPE * steepness, _LEAST_DRIFT)))


def unjudged_drift(points: Points, is_score: bool = False) -> float:
    """The drift where nothing could be held out."""
    return _UNJUDGED * prior_drift(points, is_score)


def frontier_level(points: Points) -> float:
    """Mean of the target over the points, each counting by its FLOPs, as in `frontier_noise`."""
    return float((points.flops * points.loss).sum() / points.flops.sum())


def _steepness(points: Points) -> float:
    """How much the log loss falls in a unit of log FLOPs, larger budgets counting for more."""
    log_flops_M = np.log(points.flops)
    if np.ptp(log_flops_M) == 0:
        return 0.0
    weight_M = (points.flops / points.flops.max()) ** _SLOPE_EMPHASIS
    return -float(np.polyfit(log_flops_M, np.log(points.loss), 1, w=np.sqrt(weight_M))[0])


def _drift(missed: Sequence[_Missed], shift: float, noise: float, prior: float) -> float:
    """Error beyond noise, disagreement and shift, at one unit of distance; pulled towards what other tables taught."""
    if not missed:
        return _UNJUDGED * prior
    total, count = _PRIOR_CUTOFFS * prior**2, _PRIOR_CUTOFFS
    for found, weight in zip(missed, _latest_first(len(missed)), strict=True):
        beyond_H = (found.typical - shift) ** 2 - noise**2 - found.spread**2
        total += weight * max(float(beyond_H.sum() / growth(np.maximum(found.distance, _NEAR)).sum()), 0.0)
        count += weight
    return float(np.sqrt(total / count))


def _summary(rolled: Rolled, missed: Sequence[_Missed]) -> JsonObject:
    """How well the points above one cut-off were predicted, and in a line each how well those above the others."""
    if not missed:
        return {}
    top = rolled.points.flops.max()
    factors = [float(top / rolled.points.flops[~rolled.above(found.stage)].max()) for found in missed]
    index = int(np.argmin(np.abs(np.log(np.array(factors) / _REPORTED_FACTOR))))
    chosen = missed[index]
    late = rolled.points.where(rolled.above(chosen.stage))
    error_H = np.abs(np.expm1(chosen.error))
    rows = zip(late.run, late.columns["d"], late.flops, late.loss, late.loss * np.exp(chosen.error), error_H, strict=True)
    names = ("run", "tokens", "flops", "measured", "predicted", "relative_error")
    return {
        **_errors(chosen, factors[index]),
        "points": [dict(zip(names, (late.names[run], *map(float, values)), strict=True)) for run, *values in rows],
        "cutoffs": [_errors(found, factor) for found, factor in zip(missed, factors, strict=True)],
    }


def _errors(found: _Missed, factor: float) -> JsonObject:
    error_H = np.abs(np.expm1(found.error))
    return {
        "mean": float(error_H.mean()),
        "median": float(np.median(error_H)),
        "max": float(error_H.max()),
        "signed": float(found.error.mean()),
        "count": len(error_H),
        "factor": factor,
    }
