"""The report: a study, its law, its recommendation and its proof as one self-contained HTML file."""

from __future__ import annotations

from pathlib import Path

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
    examples: int | None = None,
    memory_bytes: float | None = None,
    forget_at_most: float | None = None,
    serve_tokens: float = 0.0,
) -> Path:
    """Write the page about `source`, a study's folder or a table's file, and return its path.

    `table` holds the points of the source; with those of the verification's run in it, its curve is drawn too. Without a
    `fit` the law is fitted here, and without a `recommendation` one is made for `budget` (by default four times the largest
    run). Where either cannot be had, the page gives the reason and shows what was measured.
    """
    asked = Asked(target, law, bootstrap, budget, Limits(examples, memory_bytes, forget_at_most, serve_tokens))
    return write_page(Path(out), gather(Path(source), table, asked, fit, recommendation, verification))
