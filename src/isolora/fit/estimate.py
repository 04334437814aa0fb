"""From a table of points to a fitted law: choose the law and the lower cut, fit to convergence, bootstrap."""

from __future__ import annotations

from typing import Literal

import numpy as np

from isolora import laws
from isolora.errors import ConfigError, TableError, unknown
from isolora.fit import bootstrap as bootstrapping
from isolora.fit.points import Points, from_table, studied
from isolora.fit.rates import best_learning_rates
from isolora.fit.result import Fit
from isolora.fit.search import fit_above
from isolora.fit.target import Target, targeted
from isolora.fit.verdict import Verdict, judged, unjudged
from isolora.laws import Law
from isolora.table import Table

HOLDOUTS = ("largest", "none")


def fit(
    table: Table,
    law: str = "auto",
    bootstrap: int = 1000,
    holdout: Literal["largest", "none"] = "largest",
    seed: int = 0,
    target: str = "loss",
) -> Fit:
    """Fits a scaling law to the points of a table, one learning rate per model, method and rank.

    `law` is a name of `laws.names()` or "auto". With holdout "largest" the lower cut (and the law) is the one that best
    foretells the largest budgets; with "none" all points are fitted and "auto" decides by the fit's own objective.
    `bootstrap` is the number of replicates behind the intervals. `target` is the loss or another measure of the table: see
    `targeted`. Raises TableError when the points cannot carry the law,
    ConfigError for unknown names.
    """
    if holdout not in HOLDOUTS:
        raise ConfigError(unknown("holdout", holdout, HOLDOUTS))
    aim = targeted(studied(table), target)
    points = from_table(best_learning_rates(aim.table))
    contenders = _contenders(law, points)
    verdict = judged(points, contenders) if holdout == "largest" else unjudged(points, contenders)
    return _fitted(points, verdict, bootstrap, seed, aim)


def _contenders(name: str, points: Points) -> list[Law]:
    """The law asked for, or every law that the points can carry."""
    if name != "auto":
        law = laws.resolve(name)
        _demand(law, points)
        return [law]
    able = [law for law in map(laws.resolve, laws.names()) if not law.grows and _able(law, points)]
    if not able:
        raise TableError(
            f"the table's {len(points)} points carry no law; the simplest needs 3 distinct token counts and 5 points"
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


def _fitted(everything: Points, verdict: Verdict, count: int, seed: int, aim: Target) -> Fit:
    found = fit_above(verdict.law, everything, verdict.cut)
    points = found.points
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
        noise=found.noise,
        drift=verdict.drift,
        ranges={name: (float(points.columns[name].min()), float(points.columns[name].max())) for name in verdict.law.demands},
        draws=draws_KT,
        rivals=tuple(_rival(everything, name, cut) for name, cut in verdict.rivals),
        target=aim.name,
        left_out=aim.left_out,
    )


def _rival(points: Points, name: str, cut: float) -> tuple[str, tuple[float, ...]]:
    return name, tuple(map(float, fit_above(laws.resolve(name), points, cut).theta[0]))
