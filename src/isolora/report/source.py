"""What a study's folder knows beside its points: its name, the state of every run, its search, how its advice was verified."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

import numpy as np

from isolora.json_types import JsonMapping, JsonObject
from isolora.metrics.direction import larger_is_better
from isolora.store import FILE, Store
from isolora.table import Table

_STUDY_FILE = "study.json"
_VERIFIED_ADAPTER = Path("recommended") / "isolora.json"
"""Where a verification leaves its adapter's record."""
_FOLDERS = ("/", "./", "../", "~")
"""What the path of a local folder begins with; a hub id does not."""


@dataclass(frozen=True)
class ReportedTrial:
    """A trial of a search: what was tried, in words and as values; its metric where it ended; FLOPs of all trials up to it."""

    words: str
    state: str
    value: float
    flops: float
    parameters: JsonMapping = field(default_factory=dict)


@dataclass(frozen=True)
class Search:
    """A search and its trials in the order in which they were suggested; those without a finite value are left out."""

    metric: str
    maximizes: bool
    trials: list[ReportedTrial]


@dataclass(frozen=True)
class RecordedVerification:
    """As a verified adapter's record holds it: values of one target, training FLOPs of the verifying run."""

    predicted: float
    interval: tuple[float, float]
    measured: float
    relative_error: float
    flops: float
    flops_over_largest_fitted: float


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
            parameters = json.loads(trial.parameters)
            chosen = ", ".join(f"{key} {_short(value)}" for key, value in parameters.items())
            tried.append(ReportedTrial(chosen, trial.state, trial.value, flops, parameters))
    direction = described["direction"]
    return Search(described["metric"], direction == "maximize" if direction else larger_is_better(described["metric"]), tried)


def verification_of(source: Path, target: str = "loss") -> RecordedVerification | None:
    """The verification of a prediction of this target that the folder's recommended adapter records; None where there is none."""
    path = _folder(source) / _VERIFIED_ADAPTER
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    latest = record.get("verification") or {}
    found = record.get("verifications", {}).get(target) or (latest if latest.get("target", "loss") == target else None)
    names = ("predicted", "measured", "relative_error", "flops", "flops_over_largest_fitted")
    if not found or not {*names, "interval"} <= set(found):
        return None
    low, high = found["interval"]
    return RecordedVerification(interval=(float(low), float(high)), **{name: float(found[name]) for name in names})


def title_of(source: Path) -> str:
    """The study's own name, else the name of the folder or file."""
    path = _folder(source)
    return str(_described(path).get("name", path.resolve().stem))


def runs_of(source: Path) -> list[JsonObject]:
    """The store's rows, with states, reasons and environment; none for a table that is no store."""
    folder = _folder(source)
    return Store(folder).runs() if (folder / FILE).is_file() else []


def with_short_names(table: Table, runs: list[JsonObject]) -> tuple[Table, list[JsonObject]]:
    """Bases that are folders go by the folder's own name: where it lies on somebody's disk is no matter for a page."""
    models = [str(model) for model in table["model"]] if "model" in table else []
    names = _names_of_folders({*models, *(str(row["model"]) for row in runs)})
    if not names:
        return table, runs
    short = np.array([names.get(model, model) for model in models], dtype=object)
    named = replace(table, columns={**table.columns, "model": short}) if models else table
    return named, [{**row, "model": names.get(str(row["model"]), row["model"])} for row in runs]


def _names_of_folders(known: Collection[str]) -> dict[str, str]:
    """Path -> the last part of it, of the models that are paths; none where two would have one name."""
    paths = {model: PurePath(model).name for model in known if model.startswith(_FOLDERS)}
    shown = [paths.get(model, model) for model in known]
    return {path: name for path, name in paths.items() if name and shown.count(name) == 1}


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _described(folder: Path) -> JsonObject:
    """A study's own settings; nothing for a folder that holds none."""
    path = folder / _STUDY_FILE
    return dict(json.loads(path.read_text(encoding="utf-8"))["study"]) if path.is_file() else {}


def _folder(source: Path) -> Path:
    path = Path(source)
    return path.parent if path.name == FILE else path
