"""Files that hold points: CSV with any delimiter, TSV, Parquet, JSON, JSON Lines, SQLite stores, folders of PEFT results."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from isolora.errors import TableError, in_brief, unknown
from isolora.json_types import JsonMapping, JsonObject
from isolora.store import FILE, read_points
from isolora.table.columns import Rows
from isolora.table.differences import differences
from isolora.table.foreign import foreign_json, foreign_text, parsed_json, readable

_LEFT_OUT_STATES = ("DIVERGED",)
_DELIMITERS = (",", ";", "\t", "|")
MOST_COLUMNS = 10_000
"""Of a table of points: exports of trackers have hundreds."""


def rows_of(path: Path) -> Rows:
    """Raw columns of a file or a folder. Raises TableError, one line, for what is none or cannot be read."""
    if path.is_dir():
        if (path / FILE).exists():
            return read_store(path / FILE)
        return _read_results(path)
    if path.suffix.lower() not in READERS:
        raise TableError(unknown("kind of table", path.suffix or path.name, READERS))
    try:
        rows = READERS[path.suffix.lower()](readable(path))
        _check_width(rows)
        return rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise TableError(f"table {str(path)!r} cannot be read: {in_brief(error)}") from error


def read_store(path: Path) -> Rows:
    """The store's points, each with its run's fields, what runs differ in, and a column for each of its metrics; runs that
    diverged are left out."""
    kept = [point for point in read_points(path) if point.get("state") not in _LEFT_OUT_STATES]
    runs = {point["run"]: point for point in kept}
    told = differences(runs.values())
    for run, row in runs.items():
        told.setdefault(run, {}).update(_base_kind(row))
    return columns_of_rows({**_measures(point), **point, **told[point["run"]]} for point in kept)


def _base_kind(row: JsonMapping) -> JsonObject:
    """`base_kind`: a run's architecture and the size of its tokenizer, once it has ended."""
    noted = json.loads(row.get("environment") or "{}").get("base") or {}
    return (
        {"base_kind": f"{noted['architecture']}, {noted['entries']} entries"}
        if {"architecture", "entries"} <= noted.keys()
        else {}
    )


def columns_of_rows(rows: Iterable[JsonMapping]) -> Rows:
    """Objects as columns; None where one of them lacks a field."""
    kept = list(rows)
    names = dict.fromkeys(name for row in kept for name in row)
    _check_width(names)
    return {name: [row.get(name) for row in kept] for name in names}


def _check_width(names: Collection[str]) -> None:
    """Raises TableError where there are more names than any table of points has."""
    if len(names) > MOST_COLUMNS:
        raise TableError(f"a table has {MOST_COLUMNS:,} columns at most; this one has {len(names):,}")


def _measures(point: JsonMapping) -> dict[str, float]:
    """A point's metrics by name; a store of an earlier version has none."""
    found: dict[str, float] = json.loads(point.get("metrics") or "{}")
    return found


def _read_csv(path: Path) -> Rows:
    with path.open(encoding="utf-8-sig") as file:
        first = file.readline()
    delimiter = max(_DELIMITERS, key=first.count)
    options = pa.csv.ParseOptions(delimiter=delimiter)
    return _columns(pa.csv.read_csv(path, parse_options=options), path)


def _read_parquet(path: Path) -> Rows:
    return _columns(pa.parquet.read_table(path), path)


def _columns(table: pa.Table, path: Path) -> Rows:
    """Columns by name. Raises TableError where two of one name say different things: which is meant is not known."""
    found: dict[str, list[Any]] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        values = column.to_pylist()
        if not _same(found.setdefault(name, values), values):
            raise TableError(f"table {str(path)!r} has several columns {name!r}, which differ; rename them")
    return found


def _same(values: list[Any], others: list[Any]) -> bool:
    """Whether two columns say the same; what is no number is the same as itself."""
    return all(one == other or (one != one and other != other) for one, other in zip(values, others, strict=True))


def _read_json_lines(path: Path) -> Rows:
    lines = enumerate(foreign_text(path).split("\n"), 1)
    return columns_of_rows(
        _object(parsed_json(line, f"table {str(path)!r} line {number}"), path) for number, line in lines if line.strip()
    )


def _read_json(path: Path) -> Rows:
    """An array of objects, an object of arrays, or the result of one run of PEFT's method comparison."""
    found = foreign_json(path)
    if isinstance(found, list):
        return columns_of_rows(_object(row, path) for row in found)
    if isinstance(found, dict) and "train_info" in found:
        return columns_of_rows(result_points(found, path.stem))
    columns = isinstance(found, dict) and found and all(isinstance(values, list) for values in found.values())
    if columns and len({len(values) for values in found.values()}) == 1:
        return dict(found)
    raise TableError(f"table {str(path)!r} is no array of objects, no object of equally long arrays and no PEFT result")


def _object(found: object, path: Path) -> JsonMapping:
    if not isinstance(found, dict):
        raise TableError(f"table {str(path)!r} must hold objects; it holds {str(found)[:40]!r}")
    _check_width(found)
    return {name: value for name, value in found.items() if not isinstance(value, list | dict)}


def _read_results(folder: Path) -> Rows:
    """A folder of PEFT's comparison results, one JSON file a run."""
    points: list[JsonMapping] = []
    for path in sorted(folder.rglob("*.json")):
        found = foreign_json(path)
        if isinstance(found, dict) and "train_info" in found:
            points += result_points(found, str(path.relative_to(folder).with_suffix("")))
    if not points:
        raise TableError(f"folder {str(folder)!r} is no study: it has no {FILE}, and no results of PEFT's comparison")
    return columns_of_rows(points)


def result_points(found: JsonMapping, name: str) -> list[JsonObject]:
    """The points of one run of PEFT's method comparison: the training loss at each evaluation, tokens by share of steps.

    Raises TableError for an object that is not built as its results are.
    """
    try:
        return _result_points(found, name)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise TableError(f"{name}: not built as a result of PEFT's comparison ({in_brief(error)})") from error


def _result_points(found: JsonMapping, name: str) -> list[JsonObject]:
    setup, trained = found.get("run_info", {}), found["train_info"]
    peft, training = setup.get("peft_config") or {}, setup.get("train_config") or {}
    metrics = trained.get("metrics", [])
    total = next((m["train total tokens"] for m in reversed(metrics) if "train total tokens" in m), None)
    last = max((m.get("step", 0) for m in metrics), default=0)
    fixed = {
        "run": name,
        "model": training.get("model_id"),
        "method": str(peft.get("peft_type") or "full").lower(),
        "rank": peft.get("r"),
        "learning_rate": (training.get("optimizer_kwargs") or {}).get("lr"),
        "trainable_parameters": trained.get("num_trainable_params"),
        "peak_memory_bytes": trained.get("accelerator_memory_max"),
    }
    return [
        {
            **fixed,
            "tokens": total * metric["step"] / last if total and last else metric.get("train samples"),
            "seconds": metric.get("elapsed time", metric.get("train time")),
            "loss": metric.get("train loss"),
            "accuracy": metric.get("test accuracy", metric.get("valid accuracy")),
        }
        for metric in metrics
        if "step" in metric
    ]


READERS: Mapping[str, Callable[[Path], Rows]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".sqlite": read_store,
}
