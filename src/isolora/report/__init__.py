"""The report: a study, its law, its recommendation and its proof as one self-contained HTML file."""

from __future__ import annotations

import os
from pathlib import Path

from isolora.report.page import render
from isolora.report.study import StudyReport, Verification

__all__ = ["StudyReport", "Verification", "write"]


def write(path: Path, study: StudyReport) -> Path:
    """Write the page, whole or not at all; folders on the way are made. Returns its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(render(study), encoding="utf-8")
    return draft.replace(path)
