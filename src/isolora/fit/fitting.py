"""From a table of points to a fitted law: choose by rolling hold-outs, fit to convergence, bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from isolora import laws
from isolora.errors import ConfigError, TableError, unknown
from isolora.fit import bootstrap as bootstrapping
from isolora.fit.averaging import AveragedLaw
from isolora.fit.best_rates import best_learning_rates, rate_effect
from isolora.fit.continuation import continuation
from isolora.fit.decaying_rates import without_midway
from isolora.fit.distance import COMPUTE, ranges_of
from isolora.fit.families import MOST_FAMILIES, family_by_model, with_families
from isolora.fit.fit_points import REPEATED, Points, families_of, from_table, methods_of, studied, trials_of_rates
from isolora.fit.known_places import known_places
from isolora.fit.optimum import Optimum, fit_above, polish, search_fit
from isolora.fit.profile import edges, pinned
from isolora.fit.remarks import demand_one_measure, demand_sizes, left_out, remarks
from isolora.fit.result import Fit
from isolora.fit.rolling import Candidate, Trim, carries, roll
from isolora.fit.selection import Selection, frontier_level, select, unjudged_drift
from isolora.fit.target import Target, targeted
from isolora.fit.thinning import thinned
from isolora.laws import Array, Law
from isolora.table import Table

HOLDOUTS = ("largest", "none")
_SCREENED = 6
"""Laws that go through every trim; more are tried with one and the best of them kept."""
_SCREENING_EMPHASIS = 0.25
_NORMAL = 1.96
MOST_METHODS = 6
_SHARE_REPEATED = 0.1
"""Of the points, from which a law must tell a repeated token from a new one."""


class ManyMethods(TableError):
    """A table holds more methods than one law tells apart."""


def fit(
    table: Table,
    law: str = "auto",
    bootstrap: int = 1000,
    holdout: Literal["largest", "none"] = "largest",
    seed: int = 0,
    target: str = "loss",
) -> Fit:
    """Fits a scaling law to the points of a table, one learning rate per model, method and rank.

    `law` is a name of `laws.law_names()` or "auto". With holdout "largest" laws, lower cuts and emphases are weighed by how well
    they predicted the largest budgets from smaller ones, at several cut-offs in FLOPs; with "none" all points are fitted and
    "auto" decides by the fit's own objective. `bootstrap` is the number of replicates behind the intervals. `target` is the
    loss or another measure of the table: see `targeted`. Raises TableError when the points cannot carry the law, ConfigError
    for unknown names.
    """
    if holdout not in HOLDOUTS:
        raise ConfigError(unknown("holdout", holdout, HOLDOUTS))
    known = with_families(studied(table))
    demand_one_measure(known)
    aim = targeted(without_midway(known), target)
    demand_sizes(aim.table)
    chosen = best_learning_rates(aim.table)
    measured = from_table(chosen)
    points = thinned(measured)
    names = _few_methods(methods_of(chosen))
    contenders = _seeing_methods(_contenders(law, points, families_of(chosen)), points, names)
    choosing = _selected if holdout == "largest" else _unjudged
    selection = choosing(points, contenders, aim.bounded)
    found = _fitted(points, selection, bootstrap, seed, aim)
    unread = left_out(aim, chosen, (measured, points), found)
    return replace(found, left_out=unread, remarks=tuple(remarks(aim, chosen, found, trials_of_rates(table))))


def _contenders(name: str, points: Points, families: Sequence[str]) -> list[Law]:
    """The law asked for, or every law that the points can carry, with what sets families of bases apart."""
    if name != "auto":
        law = laws.resolve(name)
        _demand(law, points)
        return _seeing_families([law], points, families)
    design = laws.Design(points.columns)
    able = [law for law in map(laws.resolve, laws.law_names()) if not law.grows and carries(law, design)]
    able = [law for law in able if law.last_resort == (points.progress == "flops")]
    able = [law for law in able if not law.two_sizes or design.distinct("n").size == 2]
    if not able:
        raise TableError(
            f"the table's {len(points)} points carry no law; the simplest needs 3 distinct token counts and 5 points"
        )
    able = _seeing_families(able, points, families)
    for column in _decisive(points):
        able = [law for law in able if column in law.demands] or able
    return able


def _decisive(points: Points) -> list[str]:
    """Columns that a law must not be blind to where any law that can be fitted reads them."""
    repeated_M = points.columns["d"] > REPEATED * points.columns["u"]
    return ["n", "u"] if repeated_M.mean() >= _SHARE_REPEATED else ["n"]


def _seeing_families(contenders: list[Law], points: Points, families: Sequence[str]) -> list[Law]:
    """The laws with an offset and a factor for each family, where there are several and points enough; else as they were."""
    if not 1 < len(families) <= MOST_FAMILIES:
        return contenders
    seeing = [laws.by_family(law, families) for law in contenders if "d" in law.demands]
    return [law for law in seeing if carries(law, points.columns)] or contenders


def _few_methods(names: list[str]) -> list[str]:
    """The methods, where one law can tell them apart. Raises ManyMethods otherwise."""
    if len(names) > MOST_METHODS:
        raise ManyMethods(
            f"the table has {len(names)} methods, more than the {MOST_METHODS} that one law tells apart; choose one with"
            f" --method (valid: {', '.join(names)})"
        )
    return names


def _seeing_methods(contenders: list[Law], points: Points, names: Sequence[str]) -> list[Law]:
    """The laws with an offset and a slope for each method, where the table has several. Raises TableError, saying why, when
    no law can tell them apart: a law that does not see the method must not predict for one."""
    if len(names) < 2:
        return contenders
    if points.progress == "flops":
        raise TableError("a law of several methods needs tokens; map them with --map d=COLUMN, or choose one with --method")
    seeing = [laws.by_method(law, names) for law in contenders]
    able = [law for law in seeing if carries(law, points.columns)]
    if not able:
        _demand(min(seeing, key=lambda law: len(law.parameters)), points)
    return able


def _demand(law: Law, points: Points) -> None:
    law.demand(points.columns)
    if len(points) < len(law.parameters) + 2:
        raise TableError(f"law {law.name!r} needs {len(law.parameters) + 2} or more points; the table has {len(points)}")


def _selected(points: Points, contenders: Sequence[Law], is_score: bool) -> Selection:
    """Chosen by rolling hold-outs, or by the objective alone where there are too few points for any."""
    kept = list(contenders)
    known: Sequence[Candidate] = ()
    if len(kept) > _SCREENED:
        known = roll(points, kept, [Trim(float(points.columns["d"].min()), _SCREENING_EMPHASIS)]).candidates[:_SCREENED]
        kept = [candidate.law for candidate in known] or kept[:_SCREENED]
    rolled = roll(points, kept, known=known)
    if not any(candidate.ahead for candidate in rolled.candidates):
        return _unjudged(points, contenders, is_score)
    return select(rolled, is_score)


def _unjudged(points: Points, contenders: Sequence[Law], is_score: bool) -> Selection:
    """Without a hold-out: Akaike's criterion on the summed objective (a Laplace-like likelihood in units of its scale)."""
    everything_1M = np.ones((1, len(points)))
    found = [search_fit(law, points, everything_1M) for law in contenders]
    objectives = [float(each.objective[0]) for each in found]
    scores = [
        len(points) * np.log(max(value, 1e-12)) + len(law.parameters) for law, value in zip(contenders, objectives, strict=True)
    ]
    best = int(np.argmin(scores))
    cut = float(points.columns["d"].min())
    rows = tuple(
        {"law": law.name, "cut": cut, "parameters": len(law.parameters), "objective": value}
        for law, value in zip(contenders, objectives, strict=True)
    )
    noise, drift = found[best].noise, unjudged_drift(points, is_score)
    return Selection(contenders[best], Trim(cut), (), noise, drift=drift, level=frontier_level(points), candidates=rows)


def _fitted(points: Points, selection: Selection, count: int, seed: int, aim: Target) -> Fit:
    trim, law = selection.trim, selection.law
    weight_M = trim.weights(points)
    found = fit_above(law, points, trim.cut, weight_M)
    refits = bootstrapping.replicates(found, count, seed)
    theta_T = found.theta[0]
    members = _members(points, selection, found)
    low_T, high_T = np.quantile(refits.apart, [0.025, 0.975], axis=0) if count else (theta_T, theta_T)
    low_T, high_T = _widened(theta_T, low_T, high_T, [member for member in members if member.law == law.name])
    names = law.parameters
    fitted_points = points.where(points.columns["d"] >= trim.cut)
    ranges = ranges_of(points, trim.cut)
    read = {*law.demands, COMPUTE, *(name for member in selection.members for name in member.law.demands)}
    told = {name for name in read if name.startswith(laws.GROUP_PREFIXES)}
    return Fit(
        law=law.name,
        parameters=dict(zip(names, map(float, theta_T), strict=True)),
        intervals={name: (float(low), float(high)) for name, low, high in zip(names, low_T, high_T, strict=True)},
        objective=float(found.objective[0]),
        points=len(fitted_points),
        holdout=selection.holdout,
        candidates=selection.candidates,
        cut=trim.cut,
        runs=_independent(fitted_points, aim.table.names_runs),
        noise=selection.noise,
        drift=selection.drift,
        ranges={name: ends for name, ends in ranges.items() if name in read - told},
        draws=refits.theta,
        stretch=refits.stretch,
        members=members,
        shift=selection.shift,
        price=_price(points),
        rates=rate_effect(aim.table),
        target=aim.name,
        ceiling=1.0 if aim.bounded else np.inf,
        level=selection.level,
        continuation=None if aim.bounded else continuation(points),
        pinned=pinned(found),
        edges=edges(found),
        known=known_places(aim.table),
        families=family_by_model(aim.table) if laws.families_in_name(law.name) else {},
    )


def _independent(points: Points, names_runs: bool) -> int:
    """Trajectories. Points of one size in a table that names no runs may be runs of their own: there as many as the bootstrap
    weighs anew."""
    return len(points.names) if names_runs else int(bootstrapping.resampled_units(points).max()) + 1


def _members(points: Points, selection: Selection, shown: Optimum) -> tuple[AveragedLaw, ...]:
    """The averaged laws, each fitted to convergence; the law that is shown keeps its own parameters."""
    found: list[AveragedLaw] = []
    for name in dict.fromkeys(member.law.name for member in selection.members):
        alike = [member for member in selection.members if member.law.name == name]
        weight_KM = np.stack([member.trim.weights(points) for member in alike])
        theta_KT = polish(alike[0].law, points, np.stack([member.theta for member in alike]), weight_KM)
        for member, theta_T in zip(alike, theta_KT, strict=True):
            is_shown = (name, member.trim) == (selection.law.name, selection.trim)
            found.append(AveragedLaw(name, member.weight, tuple(map(float, shown.theta[0] if is_shown else theta_T))))
    return tuple(sorted(found, key=lambda member: -member.weight))


def _widened(theta_T: Array, low_T: Array, high_T: Array, alike: Sequence[AveragedLaw]) -> tuple[Array, Array]:
    """The bootstrap's intervals with what other trims of the same law say: none of them is known to be the right one.

    Distances are in logarithms where everything is positive, else as they are.
    """
    if len(alike) < 2:
        return low_T, high_T
    theta_KT = np.array([member.theta for member in alike])
    weight_K = np.array([member.weight for member in alike])
    positive_T = (theta_KT > 0).all(axis=0) & (low_T > 0) & (theta_T > 0)

    def scaled(values: Array) -> Array:
        return np.where(positive_T, np.log(np.where(positive_T, values, 1.0)), values)

    spread_T = _NORMAL * np.sqrt(weight_K @ (scaled(theta_KT) - scaled(theta_T)) ** 2 / weight_K.sum())
    below_T = np.hypot(np.maximum(scaled(theta_T) - scaled(low_T), 0.0), spread_T)
    above_T = np.hypot(np.maximum(scaled(high_T) - scaled(theta_T), 0.0), spread_T)
    ends = [
        np.where(positive_T, np.exp(np.where(positive_T, end, 0.0)), end)
        for end in (scaled(theta_T) - below_T, scaled(theta_T) + above_T)
    ]
    return ends[0], ends[1]


def _price(points: Points) -> float:
    """FLOPs a token, and a weight where sizes are known: the median over the points."""
    sizes_M = points.columns.get("n", np.ones(len(points)))
    return float(np.median(points.flops / (sizes_M * points.columns["d"])))
