"""From a table of points to a fitted law: choose the law and the lower cut, fit to convergence, bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from isolora import laws
from isolora.errors import ConfigError, TableError, unknown
from isolora.fit import bootstrap as bootstrapping
from isolora.fit import holdout as competition
from isolora.fit.points import Points, from_table, studied
from isolora.fit.rates import best_learning_rates
from isolora.fit.result import Fit
from isolora.fit.search import Found, search
from isolora.laws import Array, Law
from isolora.table import Table

HOLDOUTS = ("largest", "none")
_UNJUDGED_DRIFT = 0.02
"""Error per unit of log distance where nothing was held out: twice what was seen on nano bases."""


@dataclass(frozen=True)
class Verdict:
    """What the competition decided, and what it saw."""

    law: Law
    cut: float
    drift: float = _UNJUDGED_DRIFT
    holdout: dict[str, Any] = field(default_factory=dict)
    candidates: tuple[dict[str, object], ...] = ()


def fit(
    table: Table, law: str = "auto", bootstrap: int = 1000, holdout: Literal["largest", "none"] = "largest", seed: int = 0
) -> Fit:
    """Fits a scaling law to the points of a table, one learning rate per model, method and rank.

    `law` is a name of `laws.names()` or "auto". With holdout "largest" the lower cut (and the law) is the one that best
    foretells the largest budgets; with "none" all points are fitted and "auto" decides by the fit's own objective.
    `bootstrap` is the number of replicates behind the intervals. Raises TableError when the points cannot carry the law,
    ConfigError for unknown names.
    """
    if holdout not in HOLDOUTS:
        raise ConfigError(unknown("holdout", holdout, HOLDOUTS))
    points = from_table(best_learning_rates(studied(table)))
    contenders = _contenders(law, points)
    verdict = _judged(points, contenders) if holdout == "largest" else _unjudged(points, contenders)
    return _fitted(points.where(points.columns["d"] >= verdict.cut), verdict, bootstrap, seed)


def _contenders(name: str, points: Points) -> list[Law]:
    """The law asked for, or every law that the points can carry."""
    if name != "auto":
        law = laws.resolve(name)
        _demand(law, points)
        return [law]
    able = [law for law in map(laws.resolve, laws.names()) if _able(law, points)]
    if not able:
        raise TableError(
            f"the table's {len(points)} points carry no law; the simplest needs 4 distinct token counts and 5 points"
        )
    return able


def _able(law: Law, points: Points) -> bool:
    try:
        _demand(law, points)
    except TableError:
        return False
    return True


def _demand(law: Law, points: Points) -> None:
    law.demand(points.columns)
    if len(points) < len(law.parameters) + 2:
        raise TableError(f"law {law.name!r} needs {len(law.parameters) + 2} or more points; the table has {len(points)}")


def _judged(points: Points, contenders: Sequence[Law]) -> Verdict:
    held_M = competition.split(points)
    early, late = points.where(~held_M), points.where(held_M)
    candidates = competition.compete(points, [law.name for law in contenders], held_M)
    chosen = competition.chosen(candidates, late.run)
    distance_H = np.log(late.columns["d"] / early.columns["d"].max())
    return Verdict(
        laws.resolve(chosen.law),
        chosen.cut,
        _drift(chosen.log_ratio, distance_H),
        _told(chosen, early, late),
        tuple(candidate.row() for candidate in candidates),
    )


def _drift(log_ratio_H: Array, distance_H: Array) -> float:
    """Standard deviation of the log error per unit of log distance beyond the fitted points."""
    beyond_H = np.maximum(distance_H, 0.0)
    return float(np.sqrt((log_ratio_H**2).mean() / max((beyond_H**2).mean(), 0.1)))


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


def _unjudged(points: Points, contenders: Sequence[Law]) -> Verdict:
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


def _fitted(points: Points, verdict: Verdict, count: int, seed: int) -> Fit:
    found = search(verdict.law, points, np.ones((1, len(points))))
    draws_KT = bootstrapping.replicates(found.problem, found.z[0], points, count, seed)
    theta_T = found.theta[0]
    names = verdict.law.parameters
    low_T, high_T = np.quantile(draws_KT, [0.025, 0.975], axis=0) if count else (theta_T, theta_T)
    return Fit(
        law=verdict.law.name,
        parameters=dict(zip(names, map(float, theta_T), strict=True)),
        intervals={name: (float(low), float(high)) for name, low, high in zip(names, low_T, high_T, strict=True)},
        objective=float(found.objective[0]),
        points=len(points),
        holdout=verdict.holdout,
        candidates=verdict.candidates,
        cut=verdict.cut,
        runs=len(points.names),
        noise=_noise(found, points),
        drift=verdict.drift,
        ranges={name: (float(points.columns[name].min()), float(points.columns[name].max())) for name in verdict.law.demands},
        draws=draws_KT,
    )


def _noise(found: Found, points: Points) -> float:
    """Standard deviation of a point about the law, for the parameters spent."""
    residual_M = found.problem.log_loss(found.z)[0] - np.log(points.loss)
    return float(np.sqrt((residual_M**2).sum() / max(len(points) - len(found.problem.law.parameters), 1)))
