"""Rolling hold-outs by compute: every law is fitted below several cut-offs in FLOPs and judged on all points above each.

The hold-out extrapolates compute over the whole table, as a recommendation does, not within one size. A candidate is a law
with a trim: a lower cut in tokens (the first tokens of an adaptation follow no power law) or an emphasis k, which weighs a
point by (its FLOPs / the largest)^k, so that a law that bends where the curves do not is fitted where it will be asked.
Array suffixes: M points, K candidates, H held-out points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from isolora.errors import TableError
from isolora.fit.fit_points import Points
from isolora.fit.optimum import Effort, search_fit
from isolora.laws import Array, Columns, Design, Law

QUANTILES = (0.5, 0.65, 0.8, 0.9)
"""Shares of the points, in order of FLOPs, that lie below the cut-offs."""
_FEWEST_POINTS = 6
_SPARE_POINTS = 2
_LEAST_STEP = 0.05
"""Share of the points that must lie between two cut-offs."""
EMPHASES = (0.0, 0.25, 0.5, 1.0)
_CUT_SHARES = (0.17, 0.33, 0.5)
"""Where lower cuts are tried, as shares of the logarithm of the range of tokens."""
_TRAJECTORY = 4
"""Points a run from which its start can be told from the rest; tables of one point a run are cut by emphasis alone."""
_QUICK = Effort(samples=128, considered=4, kept=1, steps=40, tolerance=1e-4)
"""Enough to rank; the winner is fitted again, to convergence."""


@dataclass(frozen=True)
class Trim:
    """What of the points a fit looks at: those from `cut` tokens on, weighed by (FLOPs / largest)^`emphasis`."""

    cut: float
    emphasis: float = 0.0

    def weights(self, points: Points, cutoff: float = np.inf) -> Array:
        """(M,), zero for points below the cut or above a cut-off in FLOPs; their sum is their count."""
        used_M = (points.columns["d"] >= self.cut) & (points.flops <= cutoff)
        if not used_M.any():
            return np.zeros(len(points))
        weight_M = np.where(used_M, (points.flops / points.flops[used_M].max()) ** self.emphasis, 0.0)
        scaled_M: Array = weight_M * (used_M.sum() / weight_M.sum())
        return scaled_M


@dataclass(frozen=True)
class Candidate:
    """A law with a trim: its parameters on all points and, by cut-off, what it predicted for the points above.

    `theta` (T,); `fitted` (M,) log losses; `ahead` maps the index of a cut-off to log losses (M,), of which those above
    count. `error` is the mean over cut-offs of the mean absolute log error; `score` is that with each cut-off in units of the
    typical candidate's, so that far ones do not decide alone.
    """

    law: Law
    trim: Trim
    theta: Array
    fitted: Array
    ahead: Mapping[int, Array]
    error: float = np.nan
    score: float = np.nan
    weight: float = 0.0

    def row(self) -> dict[str, object]:
        return {
            "law": self.law.name,
            "cut": self.trim.cut,
            "emphasis": self.trim.emphasis,
            "parameters": len(self.law.parameters),
            "error": self.error,
            "weight": self.weight,
        }


@dataclass(frozen=True)
class Rolled:
    """All candidates, best first, with the points and the cut-offs (FLOPs) that they were judged at."""

    points: Points
    cutoffs: tuple[float, ...]
    candidates: tuple[Candidate, ...] = field(default=())

    def above(self, index: int) -> NDArray[np.bool_]:
        """The points held out at a cut-off, (M,)."""
        held_M: NDArray[np.bool_] = self.points.flops > self.cutoffs[index]
        return held_M


def cutoffs(flops_M: Array) -> tuple[float, ...]:
    """FLOPs below which a share of the points lies; fewer where budgets coincide, none where there are too few points."""
    ordered_M = np.sort(flops_M)
    found: list[float] = []
    below = 0
    for share in QUANTILES:
        cutoff = float(ordered_M[int(np.ceil(share * len(ordered_M))) - 1]) * 1.02
        count = int((ordered_M <= cutoff).sum())
        if count < _FEWEST_POINTS or count == len(ordered_M) or count - below < _LEAST_STEP * len(ordered_M):
            continue
        found.append(cutoff)
        below = count
    return tuple(found)


def trims(points: Points) -> list[Trim]:
    """Every emphasis on all points, and, of trajectories, a few lower cuts that leave 83 to 50 % of the range of tokens."""
    tokens = np.unique(points.columns["d"])
    span = float(np.log(tokens[-1] / tokens[0]))
    found = [Trim(float(tokens[0]), emphasis) for emphasis in EMPHASES]
    for share in _CUT_SHARES if len(points) >= _TRAJECTORY * len(points.names) else ():
        cut = float(tokens[np.searchsorted(np.log(tokens / tokens[0]), share * span - 1e-9)])
        if cut > found[-1].cut and (points.columns["d"] >= cut).sum() >= 0.3 * len(points):
            found.append(Trim(cut))
    return found


def carries(law: Law, columns: Columns) -> bool:
    """Whether points of these columns (M,) can tell the law's parameters apart, with some to spare."""
    if len(columns["d"]) < len(law.parameters) + _SPARE_POINTS:
        return False
    try:
        law.demand(columns)
    except TableError:
        return False
    return True


def roll(points: Points, laws: Sequence[Law], only: Sequence[Trim] = (), known: Sequence[Candidate] = ()) -> Rolled:
    """Every law with every trim (or with `only` some), fitted to all points and below each cut-off that carries it; `known` are
    candidates that have been, on the same points."""
    limits = cutoffs(points.flops)
    parts = _parts(points, limits, list(only) or trims(points))
    found = [candidate for law in laws for candidate in _candidates(law, points, parts, known)]
    return Rolled(points, limits, tuple(sorted(_scored(points, limits, found), key=lambda candidate: candidate.score)))


@dataclass(frozen=True)
class _Part:
    """What a fit looks at: a trim, a cut-off's index (-1: none), the weights (M,) and the columns of the points that have any."""

    trim: Trim
    stage: int
    weight: Array
    design: Design

    @classmethod
    def of(cls, points: Points, trim: Trim, stage: int, cutoff: float) -> _Part:
        weight_M = trim.weights(points, cutoff)
        columns = {name: column[weight_M > 0] for name, column in points.columns.items()}
        return cls(trim, stage, weight_M, Design(columns))


def _parts(points: Points, limits: Sequence[float], tried: Sequence[Trim]) -> list[list[_Part]]:
    """Of each trim all points first, and those below each cut-off."""
    return [[_Part.of(points, trim, stage - 1, cutoff) for stage, cutoff in enumerate((np.inf, *limits))] for trim in tried]


def _candidates(law: Law, points: Points, parts: Sequence[list[_Part]], known: Sequence[Candidate]) -> list[Candidate]:
    own = {candidate.trim: candidate for candidate in known if candidate.law.name == law.name}
    able = [[part for part in of_trim if carries(law, part.design)] for of_trim in parts if of_trim[0].trim not in own]
    fitted = [part for of_trim in able if of_trim and of_trim[0].stage == -1 for part in of_trim]
    return [*own.values(), *(_fitted(law, points, fitted) if fitted else ())]


def _fitted(law: Law, points: Points, parts: Sequence[_Part]) -> list[Candidate]:
    """A candidate of each trim."""
    found = search_fit(law, points, np.stack([part.weight for part in parts]), _QUICK)
    log_loss_KM = found.problem.log_loss(found.z)[:, : len(points)]
    rows = list(zip(parts, found.theta, log_loss_KM, strict=True))
    return [
        Candidate(
            law,
            part.trim,
            theta_T,
            fitted_M,
            {other.stage: ahead_M for other, _, ahead_M in rows if other.trim == part.trim and other.stage >= 0},
        )
        for part, theta_T, fitted_M in rows
        if part.stage == -1
    ]


def _scored(points: Points, limits: Sequence[float], found: Sequence[Candidate]) -> list[Candidate]:
    """Candidates with their errors; those judged at fewer cut-offs than others could be are left out where others remain."""
    log_loss_M = np.log(points.loss)
    error_KS = np.full((len(found), len(limits)), np.nan)
    for k, candidate in enumerate(found):
        for stage, predicted_M in candidate.ahead.items():
            above_M = points.flops > limits[stage]
            error_KS[k, stage] = np.abs(predicted_M - log_loss_M)[above_M].mean()
    judged_S = np.isfinite(error_KS).any(axis=0)
    if not judged_S.any():
        return list(found)
    error_KS = error_KS[:, judged_S]
    score_KS = error_KS / np.maximum(np.nanmedian(error_KS, axis=0), 1e-12)
    return [
        replace(candidate, error=float(np.nanmean(error_S)), score=float(np.nanmean(score_S)))
        for candidate, error_S, score_S in zip(found, error_KS, score_KS, strict=True)
        if np.isfinite(error_S[-1])
    ]
