"""From a source to what its page tells: the law and the advice where they can be had, and the reason where they cannot."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from isolora.cost.accelerators import HERE, Place
from isolora.cost.table_times import computed_in, timed_on
from isolora.errors import TableError
from isolora.fit import Fit, studied, targeted
from isolora.fit import fit as fit_law
from isolora.json_types import JsonObject
from isolora.plan import Budget, Limits, NoRecommendation, Recommendation, parse_budget
from isolora.plan.asked import plan_within
from isolora.plan.budget import DEFAULT_BUDGET
from isolora.report.source import runs_of, search_of, title_of, verification_of, with_short_names
from isolora.report.study_report import StudyReport, Verified
from isolora.report.trajectories import trained, training_flops
from isolora.table import Table


@dataclass(frozen=True)
class Asked:
    """What a page is asked to be about; see `report`."""

    target: str = "loss"
    law: str = "auto"
    bootstrap: int = 1000
    budget: str | Budget | None = None
    limits: Limits = field(default_factory=Limits)
    place: Place = HERE
    precision: str | None = None


def gather(
    source: Path,
    table: Table,
    asked: Asked,
    fit: Fit | None = None,
    recommendation: Recommendation | None = None,
    verification: Verified | None = None,
) -> StudyReport:
    """Everything for the page. Raises UserError only for a wrong question: the target, the law's name, the budget."""
    runs = runs_of(source)
    if fit is None and recommendation is None:  # those that are given bear the names that they were made with
        table, runs = with_short_names(table, runs)
    target = fit.target if fit else asked.target
    aim, timed = targeted(table, target), timed_on(table, source, asked.place, asked.precision)
    no_law = words = ""
    no_advice: tuple[str, ...] = ()
    measure_next = recommendation.measure_next if recommendation else ()
    if fit is None:
        fit, no_law = _fitted(timed, asked)
    verification = verification or verification_of(source, aim.name)
    budget = parse_budget(asked.budget) if isinstance(asked.budget, str) else asked.budget
    if fit is not None and recommendation is None:
        budget, words = (budget, "") if budget else _default_budget(table, verification)
        recommendation, no_advice, measure_next = _planned(fit, timed, budget, asked.limits)
    return StudyReport(
        title_of(source),
        aim.table,
        fit,
        recommendation,
        verification,
        runs,
        search=search_of(source),
        no_law=no_law,
        no_advice=no_advice,
        measure_next=measure_next,
        budget_words=words,
        target=aim.name,
        budget=budget,
        limits=asked.limits,
        place=asked.place,
        precision=asked.precision or computed_in(source),
    )


def _fitted(table: Table, asked: Asked) -> tuple[Fit | None, str]:
    try:
        return fit_law(table, law=asked.law, bootstrap=asked.bootstrap, target=asked.target), ""
    except TableError as error:
        return None, str(error)


def _default_budget(table: Table, verified: Verified | None) -> tuple[Budget, str]:
    """The budget that was verified, else a multiple of the largest run's, and the sentence about it."""
    if verified is not None:
        return Budget(verified.flops, "flops"), "The budget is the one that was verified."
    largest = float(np.nanmax(training_flops(trained(studied(table)))))
    words = f"No budget was asked for; this is {DEFAULT_BUDGET:g} × the largest run."
    return Budget(DEFAULT_BUDGET * largest, "flops"), words


def _planned(
    fit: Fit, table: Table, budget: Budget, limits: Limits
) -> tuple[Recommendation | None, tuple[str, ...], tuple[JsonObject, ...]]:
    """(the recommendation, or why there is none in words, the runs to measure next)."""
    try:
        found = plan_within(fit, table, budget, limits)
        return found, (), found.measure_next
    except NoRecommendation as refusal:
        first, *more = (line.strip() for line in refusal.words().splitlines())
        return None, (first.removeprefix("no recommendation: "), *more), refusal.measure_next
    except TableError as error:
        return None, (str(error),), ()
