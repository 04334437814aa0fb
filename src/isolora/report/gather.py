"""From a source to what its page tells: the law and the advice where they can be had, and the reason where they cannot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from isolora.errors import TableError
from isolora.fit import Fit, studied, targeted
from isolora.fit import fit as fit_law
from isolora.plan import Budget, NoRecommendation, Recommendation
from isolora.plan import plan as plan_for
from isolora.plan.budget import DEFAULT_BUDGET
from isolora.report.source import runs_of, search_of, title_of, verification_of
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
    examples: int | None = None
    memory_bytes: float | None = None
    forget_at_most: float | None = None


def gather(
    source: Path,
    table: Table,
    asked: Asked,
    fit: Fit | None = None,
    recommendation: Recommendation | None = None,
    verification: Verified | None = None,
) -> StudyReport:
    """Everything for the page. Raises UserError only for a wrong question: the target, the law's name, the budget."""
    target = fit.target if fit else asked.target
    aim = targeted(table, target)
    no_law = words = ""
    no_advice: tuple[str, ...] = ()
    if fit is None:
        fit, no_law = _fitted(table, asked)
    verification = verification or verification_of(source, aim.name)
    if fit is not None and recommendation is None:
        recommendation, no_advice, words = _planned(fit, table, asked, verification)
    return StudyReport(
        title_of(source),
        aim.table,
        fit,
        recommendation,
        verification,
        runs_of(source),
        search=search_of(source),
        no_law=no_law,
        no_advice=no_advice,
        budget_words=words,
        target=aim.name,
    )


def _fitted(table: Table, asked: Asked) -> tuple[Fit | None, str]:
    try:
        return fit_law(table, law=asked.law, bootstrap=asked.bootstrap, target=asked.target), ""
    except TableError as error:
        return None, str(error)


def _planned(
    fit: Fit, table: Table, asked: Asked, verified: Verified | None
) -> tuple[Recommendation | None, tuple[str, ...], str]:
    """The recommendation, or why there is none and what to measure next, and where the budget comes from."""
    budget, words = asked.budget, ""
    if budget is None and verified is not None:
        budget, words = Budget(verified.flops, "flops"), "The budget is the one that was verified."
    elif budget is None:
        largest = float(np.nanmax(training_flops(trained(studied(table)))))
        budget = Budget(DEFAULT_BUDGET * largest, "flops")
        words = f"No budget was asked for; this is {DEFAULT_BUDGET:g} × the largest run."
    try:
        limits = (asked.examples, asked.memory_bytes, None, asked.forget_at_most)
        return plan_for(fit, table, budget, *limits), (), words
    except NoRecommendation as refusal:
        first, *more = (line.strip() for line in refusal.words().splitlines())
        return None, (first.removeprefix("no recommendation: "), *more), words
    except TableError as error:
        return None, (str(error),), words
