"""Laws and lower cuts compete: fitted without the largest budgets, judged by how well they foretell those.

The first tokens of an adaptation do not follow a power law (the curve starts S-shaped), so how much of the start to
leave out is selected together with the law, on the same held-out points for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isolora import laws
from isolora.errors import TableError
from isolora.fit.points import Points
from isolora.fit.search import search
from isolora.laws import Array, Law

FARTHEST = 4.0
"""The largest budget over the largest one fitted, in the competition as in the demo's verification."""
_SHARE_HELD = 0.4
"""Of the logarithm of a size's range of FLOPs: less range is left to the competition where there is little."""
_CUT_SPACING = 1.15
_SPARE_POINTS = 4
_HARDLY_WORSE = 1.25
_AS_WELL = 1.6
_MOST_RIVALS = 5
"""Tuned on synthetic S-shaped studies whose truth was none of the laws (benchmarks/bench_fit.py); a rule of one standard
error over trajectories was so lenient that it took laws which missed even the fitted points."""
_STARTS, _STEPS = 4, 60
"""Enough to rank; the winner is fitted again, to convergence."""


@dataclass(frozen=True)
class Candidate:
    """A law above a lower cut, in tokens: its error on the held-out points (mean of |log ratio|) and errors by point."""

    law: str
    cut: float
    parameters: int
    error: float
    log_ratio: Array

    def row(self) -> dict[str, object]:
        return {"law": self.law, "cut": self.cut, "parameters": self.parameters, "error": self.error}


def split(points: Points) -> NDArray[np.bool_]:
    """True for the held-out points: of each size the largest budgets, up to the last factor of four in FLOPs.

    By size, so that every size is judged about as far beyond its own points as a recommendation will lie beyond them.
    """
    held_M = np.zeros(len(points), dtype=bool)
    size_M = points.columns.get("n", np.zeros(len(points)))
    for size in np.unique(size_M):
        of_size_M = size_M == size
        flops = points.flops[of_size_M]
        factor = min(FARTHEST, float((flops.max() / flops.min()) ** _SHARE_HELD))
        held_M |= of_size_M & (points.flops > flops.max() / factor * 1.01)
    return held_M


def cuts(tokens_M: Array) -> Array:
    """Lower cuts to try: the data's own token counts, from none left out, a good tenth or more apart."""
    chosen = [float(tokens_M.min())]
    for tokens in np.unique(tokens_M):
        if tokens >= _CUT_SPACING * chosen[-1]:
            chosen.append(float(tokens))
    return np.array(chosen)


def compete(points: Points, names: Sequence[str], held_M: NDArray[np.bool_]) -> list[Candidate]:
    """Every law above every cut that leaves it enough points, best first. Raises TableError when there is none."""
    early, late = points.where(~held_M), points.where(held_M)
    found = [candidate for name in names for candidate in _candidates(laws.resolve(name), early, late)]
    if not found:
        raise TableError(f"too few points to hold out the largest budgets ({len(points)} in all); use --holdout none")
    return sorted(found, key=lambda candidate: candidate.error)


def hardly_worse(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Of each law that foretold about as well as the best its best cut, best first."""
    best: dict[str, Candidate] = {}
    for candidate in candidates:
        if candidate.error <= _HARDLY_WORSE * candidates[0].error:
            best.setdefault(candidate.law, candidate)
    return list(best.values())


def rivals(candidates: Sequence[Candidate], winner: Candidate) -> list[Candidate]:
    """Other laws, each above its best cut, that foretold about as well as the winner: what they disagree on is not known."""
    best: dict[str, Candidate] = {}
    for candidate in candidates:
        if candidate.law != winner.law and candidate.error <= _AS_WELL * candidates[0].error:
            best.setdefault(candidate.law, candidate)
    return list(best.values())[:_MOST_RIVALS]


def _candidates(law: Law, early: Points, late: Points) -> list[Candidate]:
    usable = [cut for cut in cuts(early.columns["d"]) if _carries(law, early.where(early.columns["d"] >= cut))]
    if not usable:
        return []
    weight_KM = (early.columns["d"] >= np.array(usable)[:, None]).astype(float)
    predicted_KH = law.predict(search(law, early, weight_KM, _STARTS, _STEPS).theta, late.columns)
    log_ratio_KH = np.log(predicted_KH / late.loss)
    return [
        Candidate(law.name, float(cut), len(law.parameters), float(np.abs(log_ratio_H).mean()), log_ratio_H)
        for cut, log_ratio_H in zip(usable, log_ratio_KH, strict=True)
    ]


def _carries(law: Law, points: Points) -> bool:
    if len(points) < len(law.parameters) + _SPARE_POINTS:
        return False
    try:
        law.demand(points.columns)
    except TableError:
        return False
    return True
