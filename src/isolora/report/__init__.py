"""The report: a study, its law, its recommendation and its proof as one self-contained HTML file."""

from __future__ import annotations

from pathlib import Path

from isolora.cost.accelerators import HERE, Place
from isolora.fit import Fit
from isolora.plan import Budget, Limits, Recommendation
from isolora.report.gather import Asked, gather
from isolora.report.page import write_page
from isolora.report.study_report import StudyReport, Verified
from isolora.table import Table

__all__ = ["StudyReport", "Verified", "report", "write_page"]


def report(
    source: Path | str,
    table: Table,
    fit: Fit | None = None,
    out: Path | str = "report.html",
    recommendation: Recommendation | None = None,
    verification: Verified | None = None,
    *,
    target: str = "loss",
    law: str = "auto",
    bootstrap: int = 1000,
    budget: str | Budget | None = None,
    limits: Limits | None = None,
    place: Place = HERE,
    precision: str | None = None,
) -> Path:
    """Write the page about `source`, a study's folder or a table's file, and return its path.

    `table` holds the points of the source; with those of the verification's run in it, its curve is drawn too. Without a
    `fit` the law is fitted here, and without a `recommendation` one is made for `budget` (by default four times the largest
    run). Where either cannot be had, the page gives the reason and shows what was measured. place: the accelerator that
    times and money are of, as `isolora.cost.table_times.timed_on` has them.
    """
    asked = Asked(target, law, bootstrap, budget, limits or Limits(), place, precision)
    return write_page(Path(out), gather(Path(source), table, asked, fit, recommendation, verification))
