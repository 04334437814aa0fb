"""Which law and which lower cut: the competition's decision, and what it says about errors yet to come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from isolora import laws
from isolora.fit import holdout as competition
from isolora.fit.points import Points
from isolora.fit.search import fit_above, search
from isolora.laws import Array, Law

_LEAST_DRIFT = 0.006
"""Error per unit of log distance that a law is trusted with at best, however well it did on the held-out points: on nano
bases the best laws missed by 1.0 to 1.7 % at four times the fitted tokens (0.7 to 1.2 % per unit)."""
_UNJUDGED_DRIFT = 0.02


@dataclass(frozen=True)
class Verdict:
    """What the competition decided, and what it saw; `rivals` are (law, lower cut) that foretold about as well."""

    law: Law
    cut: float
    drift: float = _UNJUDGED_DRIFT
    holdout: dict[str, Any] = field(default_factory=dict)
    candidates: tuple[dict[str, object], ...] = ()
    rivals: tuple[tuple[str, float], ...] = ()


def judged(points: Points, contenders: Sequence[Law]) -> Verdict:
    """The law and the cut that best foretell the largest budgets. Raises TableError when too few points are left for any."""
    held_M = competition.split(points)
    early, late = points.where(~held_M), points.where(held_M)
    candidates = competition.compete(points, [law.name for law in contenders], held_M)
    chosen = _best_supported(competition.hardly_worse(candidates), points)
    law = laws.resolve(chosen.law)
    distance_H = np.log(late.columns["d"] / early.columns["d"].max())
    return Verdict(
        law,
        chosen.cut,
        _drift(chosen.log_ratio, distance_H, fit_above(law, early, chosen.cut).noise),
        _told(chosen, early, late),
        tuple(candidate.row() for candidate in candidates),
        tuple((rival.law, rival.cut) for rival in competition.rivals(candidates, chosen)),
    )


def _best_supported(candidates: Sequence[competition.Candidate], points: Points) -> competition.Candidate:
    """Of laws that foretold about equally well the one that all points, the held-out ones included, support best for its
    number of parameters: Akaike's criterion on the points that none of them leaves out."""
    cut = max(candidate.cut for candidate in candidates)

    def criterion(candidate: competition.Candidate) -> float:
        found = fit_above(laws.resolve(candidate.law), points, cut)
        count = len(found.points)
        squares = found.noise**2 * max(count - candidate.parameters, 1)
        return count * float(np.log(squares / count)) + 2 * candidate.parameters

    return min(candidates, key=criterion)


def _drift(log_ratio_H: Array, distance_H: Array, noise: float) -> float:
    """Standard deviation of the log error, beyond the noise, per unit of log distance from the fitted points."""
    beyond_H = np.maximum(distance_H, 0.0)
    squared = max(float((log_ratio_H**2).mean()) - noise**2, 0.0) / max(float((beyond_H**2).mean()), 0.1)
    return max(float(np.sqrt(squared)), _LEAST_DRIFT)


def _told(chosen: competition.Candidate, early: Points, late: Points) -> dict[str, Any]:
    error_H = np.abs(np.expm1(chosen.log_ratio))
    predicted_H = late.loss * np.exp(chosen.log_ratio)
    rows = zip(late.run, late.columns["d"], late.flops, late.loss, predicted_H, error_H, strict=True)
    names = ("run", "tokens", "flops", "measured", "predicted", "relative_error")
    return {
        "mean": float(error_H.mean()),
        "median": float(np.median(error_H)),
        "max": float(error_H.max()),
        "count": len(error_H),
        "factor": float(late.flops.max() / early.flops.max()),
        "points": [dict(zip(names, (late.names[run], *map(float, values)), strict=True)) for run, *values in rows],
    }


def unjudged(points: Points, contenders: Sequence[Law]) -> Verdict:
    """Without a holdout: Akaike's criterion on the summed objective (a Laplace-like likelihood in units of its scale)."""
    everything_1M = np.ones((1, len(points)))
    objectives = [search(law, points, everything_1M).objective[0] for law in contenders]
    scores = [
        len(points) * np.log(max(value, 1e-12)) + len(law.parameters) for law, value in zip(contenders, objectives, strict=True)
    ]
    cut = float(points.columns["d"].min())
    rows = tuple(
        {"law": law.name, "cut": cut, "parameters": len(law.parameters), "objective": float(value)}
        for law, value in zip(contenders, objectives, strict=True)
    )
    return Verdict(contenders[int(np.argmin(scores))], cut, candidates=rows)
