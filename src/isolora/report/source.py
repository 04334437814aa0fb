"""What a study's folder knows beside its points: its name, and the state of every run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from isolora.store import FILE, Store

_STUDY_FILE = "study.json"


def title_of(source: Path) -> str:
    """The study's own name, else the name of the folder or file."""
    path = _folder(source)
    described = path / _STUDY_FILE
    if described.is_file():
        return str(json.loads(described.read_text(encoding="utf-8"))["study"]["name"])
    return path.resolve().stem


def runs_of(source: Path) -> list[dict[str, Any]]:
    """The store's rows, with states, reasons and environment; none for a table that is no store."""
    folder = _folder(source)
    return Store(folder).runs() if (folder / FILE).is_file() else []


def _folder(source: Path) -> Path:
    path = Path(source)
    return path.parent if path.name == FILE else path
