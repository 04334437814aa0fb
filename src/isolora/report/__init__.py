"""The report: a study, its law, its recommendation and its proof as one self-contained HTML file."""

from __future__ import annotations

from pathlib import Path

from isolora.fit import Fit
from isolora.plan import Recommendation
from isolora.report.page import write
from isolora.report.source import runs_of, search_of, title_of
from isolora.report.study import StudyReport, Verified
from isolora.table import Table

__all__ = ["StudyReport", "Verified", "report", "write"]


def report(
    source: Path | str,
    table: Table,
    fit: Fit,
    out: Path | str,
    recommendation: Recommendation | None = None,
    verification: Verified | None = None,
) -> Path:
    """Write the page about `source`, a study's folder or a table's file, and return its path.

    `table` holds the points of the source; with those of the verification's run in it, its curve is drawn too.
    """
    path = Path(source)
    study = StudyReport(title_of(path), table, fit, recommendation, verification, runs_of(path), search=search_of(path))
    return write(Path(out), study)
