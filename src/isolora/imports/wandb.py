"""Weights & Biases: tables exported as CSV, histories and runs exported as JSON or JSON Lines. Needs no package."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from isolora.errors import TableError
from isolora.imports.base import Importer, LoggedRun, Read, at_step, by_step, dotted_settings, told_apart
from isolora.imports.tracked_points import setting_columns
from isolora.json_types import JsonMapping, JsonObject
from isolora.table.foreign import foreign_json, foreign_text, parsed_json

STEPS = ("_step", "Step", "step", "global_step", "train/global_step", "trainer/global_step")
NAMES = ("Name", "run_name", "run", "name", "display_name", "id", "ID")
_BOUNDS = ("__MIN", "__MAX", "__STEP")
_KINDS = (".csv", ".json", ".jsonl")


class WandbImporter(Importer):
    name = "wandb"
    reads = (
        "an exported CSV (runs, or one chart), a JSON or JSON Lines file of runs or of one run's history, or a folder of these"
    )

    def read(self, source: Path) -> Read:
        paths = sorted(path for path in source.rglob("*") if path.suffix in _KINDS) if source.is_dir() else [source]
        runs: list[LoggedRun] = []
        left_out: Counter[str] = Counter()
        for path in paths:
            found = _csv(path, left_out) if path.suffix == ".csv" else _json(path, left_out)
            runs += found
        if not runs:
            raise self.refuse(source)
        return Read(tuple(_merged(runs)), +left_out)


def _csv(path: Path, left_out: Counter[str]) -> list[LoggedRun]:
    try:
        rows = list(csv.DictReader(io.StringIO(foreign_text(path), newline="")))
    except csv.Error as error:
        raise TableError(f"{str(path)!r} cannot be read: {error}") from error
    if not rows:
        return []
    step = next((name for name in STEPS if name in rows[0]), None)
    charted = [name for name in rows[0] if " - " in name]
    if step and charted:
        left_out["columns of a chart's bounds (__MIN, __MAX)"] += sum(name.endswith(_BOUNDS) for name in charted)
        return _chart(rows, step, [name for name in charted if not name.endswith(_BOUNDS)])
    if any(name in rows[0] for name in NAMES):
        return _grouped(rows, left_out)
    return [LoggedRun(path.stem, {}, by_step((at_step(row[step]), row) for row in rows))] if step else []


def _chart(rows: Sequence[JsonMapping], step: str, columns: Iterable[str]) -> list[LoggedRun]:
    """A chart's export: a column `run - metric` for each run."""
    found: dict[str, list[tuple[float, JsonObject]]] = {}
    for column in columns:
        run, _, metric = column.rpartition(" - ")
        found.setdefault(run, []).extend((at_step(row[step]), {metric: row[column]}) for row in rows if row[column])
    return [LoggedRun(run, {}, by_step(pieces)) for run, pieces in found.items()]


def _grouped(rows: Sequence[JsonMapping], left_out: Counter[str]) -> list[LoggedRun]:
    """Rows that name their run: one a run with its settings and its last values, or a history of several runs.

    Several rows of a name without a step are evaluations in their order; where their settings differ they are several runs.
    """
    groups: dict[tuple[str, str], dict[str, JsonMapping]] = {}
    named = next(name for name in NAMES if name in rows[0])
    stepped = any(_step_of(row) is not None for row in rows)
    for row in rows:
        told = "" if stepped else str((row.get("ID"), setting_columns(row)))
        groups.setdefault((str(row.get(named)), told), {})[json.dumps(row, default=str)] = row
    left_out["rows that repeat another one of their run"] += len(rows) - sum(map(len, groups.values()))
    return list(told_apart(_of_rows(name, list(own.values())) for (name, _), own in groups.items()))


def _of_rows(name: str, rows: Sequence[JsonMapping]) -> LoggedRun:
    """A run's rows; one that says no step is at its place among them."""
    config = rows[-1] if rows else {}
    steps = [step if (step := _step_of(row)) is not None else place for place, row in enumerate(rows, 1)]
    return LoggedRun(name, config, by_step(zip(steps, rows, strict=True)), all(_step_of(row) is None for row in rows))


def _step_of(row: JsonMapping) -> float | None:
    return next((at_step(row[name]) for name in STEPS if row.get(name) not in (None, "")), None)


def _json(path: Path, left_out: Counter[str]) -> list[LoggedRun]:
    """Runs as objects with `config`, `summary` and `history`, or rows: a history or a table."""
    found = _lines(path) if path.suffix == ".jsonl" else foreign_json(path)
    if isinstance(found, dict) and not {"config", "summary", "history"} & found.keys() and found:
        values = list(found.values())
        if all(isinstance(value, dict) for value in values) and not any("value" in value for value in values):
            found = [{"name": name, **value} for name, value in found.items()]  # name -> run
    rows = [row for row in (found if isinstance(found, list) else [found]) if isinstance(row, dict)]
    if any({"config", "summary", "history"} & row.keys() for row in rows):
        return [_whole(row, path) for row in rows]
    if rows and any(name in rows[0] for name in NAMES):
        return _grouped([dotted_settings(row) for row in rows], left_out)
    pieces = [(step, row) for row in rows if (step := _step_of(row)) is not None]
    left_out["rows without a step and without a run's name"] += len(rows) - len(pieces)
    return [LoggedRun(path.stem, {}, by_step(pieces))] if pieces else []


def _whole(row: JsonMapping, path: Path) -> LoggedRun:
    name = str(next((row[key] for key in NAMES if row.get(key)), path.stem))
    config, summary = (_object(row.get(key)) for key in ("config", "summary"))
    history = [entry for entry in row.get("history") or [] if isinstance(entry, dict)]
    # what the history has said is said once: a summary repeats the last evaluation, or the best, at the last step
    last = {key: value for key, value in dotted_settings(summary).items() if key in STEPS or not _has_said(history, key, value)}
    if history and _step_of(last) is None:
        history[-1] = {**last, **history[-1]}
    elif last:
        history.append(last)
    return replace(_of_rows(name, history), config=dotted_settings(config))


def _has_said(history: Iterable[JsonMapping], key: str, value: object) -> bool:
    return any(row.get(key) == value for row in history)


def _object(given: object) -> JsonObject:
    """An object, or JSON text of one, as the API's exports hold it."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (RecursionError, ValueError):
            return {}
    return dict(given) if isinstance(given, Mapping) else {}


def _lines(path: Path) -> list[Any]:
    lines = enumerate(foreign_text(path).split("\n"), 1)
    return [parsed_json(line, f"{str(path)!r} line {number}") for number, line in lines if line.strip()]


def _merged(runs: Iterable[LoggedRun]) -> list[LoggedRun]:
    """Charts of several metrics of the same runs, and their settings from another file, as one."""
    found: dict[str, LoggedRun] = {}
    for run in runs:
        known = found.get(run.name)
        found[run.name] = _joined(known, run) if known else run
    return list(found.values())


def _joined(known: LoggedRun, run: LoggedRun) -> LoggedRun:
    history = by_step([*known.history.items(), *run.history.items()])
    for each in (known, run):
        history.replaced.update(each.replaced)
    return LoggedRun(run.name, {**known.config, **run.config}, history, known.numbered or run.numbered)


importer = WandbImporter()
