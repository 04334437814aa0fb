"""What a study's folder knows beside its points: its name, and the state of every run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isolora.metrics.direction import larger_is_better
from isolora.store import FILE, Store

_STUDY_FILE = "study.json"


@dataclass(frozen=True)
class Tried:
    """A trial of a search: what was tried, in words; its metric where it ended; FLOPs of all trials up to it."""

    words: str
    state: str
    value: float
    flops: float


@dataclass(frozen=True)
class Search:
    """A search and its trials in the order in which they were suggested; those without a finite value are left out."""

    metric: str
    maximizes: bool
    trials: list[Tried]


def search_of(source: Path) -> Search | None:
    """The newest search of the folder; None where there is none."""
    folder = _folder(source)
    described = _described(folder).get("search")
    if not described or not (folder / FILE).is_file():
        return None
    store = Store(folder)
    spent = {point["run"]: float(point["flops"]) for point in store.points()}
    tried, flops = [], 0.0
    for trial in store.trials():
        flops += spent.pop(trial.run, 0.0)  # a run that was suggested twice has cost once
        if trial.value is not None:
            chosen = ", ".join(f"{key} {_short(value)}" for key, value in json.loads(trial.parameters).items())
            tried.append(Tried(chosen, trial.state, trial.value, flops))
    direction = described["direction"]
    return Search(described["metric"], direction == "maximize" if direction else larger_is_better(described["metric"]), tried)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _described(folder: Path) -> dict[str, Any]:
    """A study's own settings; nothing for a folder that holds none."""
    path = folder / _STUDY_FILE
    return dict(json.loads(path.read_text(encoding="utf-8"))["study"]) if path.is_file() else {}


def title_of(source: Path) -> str:
    """The study's own name, else the name of the folder or file."""
    path = _folder(source)
    return str(_described(path).get("name", path.resolve().stem))


def runs_of(source: Path) -> list[dict[str, Any]]:
    """The store's rows, with states, reasons and environment; none for a table that is no store."""
    folder = _folder(source)
    return Store(folder).runs() if (folder / FILE).is_file() else []


def _folder(source: Path) -> Path:
    path = Path(source)
    return path.parent if path.name == FILE else path
