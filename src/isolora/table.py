"""The table of points: read from a study's store, CSV, Parquet or JSON Lines into columns of known names."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from numpy.typing import NDArray

from isolora.errors import TableError, unknown

STORE_NAME = "study.sqlite"
SHORT_NAMES = {"n": "body_parameters", "d": "tokens", "p": "trainable_parameters", "u": "unique_tokens"}
TEXT_COLUMNS = ("run", "model", "method", "state", "stage", "task", "metrics", "config")
_LEFT_OUT_STATES = ("DIVERGED",)
_IDENTITY = ("model", "method", "rank", "learning_rate", "seed", "body_parameters", "trainable_parameters")

Column = NDArray[Any]
Rows = Mapping[str, list[Any]]


@dataclass(frozen=True)
class Table:
    """Columns of equal length: numbers as float64 (NaN where absent), names as text."""

    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> Column:
        """Raises TableError, naming the columns there are, when there is none of that name."""
        if name not in self.columns:
            raise TableError(unknown("column", name, self.columns))
        return self.columns[name]

    def where(self, chosen_M: NDArray[np.bool_] | NDArray[np.int64]) -> Table:
        """The rows that a mask or an index chooses."""
        return Table({name: column[chosen_M] for name, column in self.columns.items()})


def read(source: str | Path, mapping: Mapping[str, str] | None = None) -> Table:
    """The points in a study's folder (or its SQLite file) or in a CSV, Parquet or JSON Lines file.

    `mapping` names the file's own column for a canonical or a short name: {"n": "params", "loss": "eval_nats"}.
    Rows without a loss (NaN) are left out. Raises TableError, one line, for everything else that cannot be used.
    """
    path = Path(source)
    if not path.exists():
        raise TableError(f"source {str(source)!r} does not exist (valid: a study's folder, or a {', '.join(_READERS)} file)")
    return from_columns(_rows(path), mapping or {}, str(source))


def read_places(source: str | Path, mapping: Mapping[str, str] | None = None) -> Table:
    """The rows of a file as places to predict at: every row, in its order; a loss is not needed."""
    named = _renamed(_rows(Path(source)), mapping or {})
    return Table({name: _typed(name, values) for name, values in named.items()})


def read_store(path: Path) -> Rows:
    """The store's points, each with its run's fields and a column for each of its metrics; runs that diverged are left out."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            points = _select(connection, "SELECT * FROM points")
            runs = {row["run"]: row for row in _select(connection, "SELECT * FROM runs")} if _has_runs(connection) else {}
    except sqlite3.Error as error:
        raise TableError(f"store {str(path)!r} cannot be read: {error}") from error
    joined = [{**runs.get(point["run"], {}), **_measures(point), **point} for point in points]
    kept = [row for row in joined if row.get("state") not in _LEFT_OUT_STATES]
    names = list(dict.fromkeys(name for row in kept for name in row))
    return {name: [row.get(name) for row in kept] for name in names}


def from_columns(rows: Rows, mapping: Mapping[str, str], source: str = "table") -> Table:
    """A table from raw columns: renamed, typed, checked. Raises TableError, one line."""
    named = _renamed(rows, mapping)
    if "loss" not in named:
        raise TableError(f"{source} has no loss column; map one with --map loss=COLUMN (columns: {', '.join(rows) or 'none'})")
    columns = {name: _typed(name, values) for name, values in named.items()}
    measured_M = np.isfinite(columns["loss"])
    if not measured_M.any():
        raise TableError(f"{source} has no point with a finite loss")
    table = Table(columns).where(measured_M)
    for name in ("loss", "body_parameters", "trainable_parameters"):
        if name in table and (table[name] <= 0).any():
            raise TableError(f"column {name!r} of {source} must be positive; its smallest value is {np.nanmin(table[name]):g}")
    return Table({**table.columns, "run": _run_names(table)})


def _rows(path: Path) -> Rows:
    if path.is_dir():
        if not (path / STORE_NAME).exists():
            raise TableError(f"folder {str(path)!r} is no study: it has no {STORE_NAME}")
        return read_store(path / STORE_NAME)
    if path.suffix not in _READERS:
        raise TableError(unknown("kind of table", path.suffix or path.name, _READERS))
    return _READERS[path.suffix](path)


def _read_arrow(reader: Callable[[Path], pa.Table]) -> Callable[[Path], Rows]:
    def rows(path: Path) -> Rows:
        try:
            columns: Rows = reader(path).to_pydict()
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise TableError(f"table {str(path)!r} cannot be read: {str(error).splitlines()[0]}") from error
        return columns

    return rows


_READERS: Mapping[str, Callable[[Path], Rows]] = {
    ".csv": _read_arrow(pa.csv.read_csv),
    ".parquet": _read_arrow(pa.parquet.read_table),
    ".jsonl": _read_arrow(pa.json.read_json),
    ".sqlite": read_store,
}


def _select(connection: sqlite3.Connection, query: str) -> list[dict[str, Any]]:
    cursor = connection.execute(query)
    names = [field[0] for field in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _measures(point: Mapping[str, Any]) -> dict[str, float]:
    """A point's metrics by name; a store of an earlier version has none."""
    found: dict[str, float] = json.loads(point.get("metrics") or "{}")
    return found


def _has_runs(connection: sqlite3.Connection) -> bool:
    return bool(_select(connection, "SELECT name FROM sqlite_master WHERE name = 'runs'"))


def _renamed(rows: Rows, mapping: Mapping[str, str]) -> dict[str, list[Any]]:
    """Canonical name -> values: mapped columns first, then those of that name, then short names such as `n`."""
    named = {SHORT_NAMES[name]: values for name, values in rows.items() if name in SHORT_NAMES}
    named.update({name: values for name, values in rows.items() if name not in SHORT_NAMES})
    for name, column in mapping.items():
        if column not in rows:
            raise TableError(unknown(f"column for {name!r} in the mapping:", column, rows))
        named[SHORT_NAMES.get(name, name)] = rows[column]
    return named


def _typed(name: str, values: Iterable[Any]) -> Column:
    if name in TEXT_COLUMNS:
        return np.array([str(value) for value in values], dtype=object)
    values = list(values)
    try:
        return np.array([np.nan if value is None else value for value in values], dtype=float)
    except (TypeError, ValueError):
        if name == "loss" or name in SHORT_NAMES.values():
            raise TableError(f"column {name!r} must hold numbers; it holds {_first_text(values)!r}") from None
        return np.array([str(value) for value in values], dtype=object)


def _first_text(values: Iterable[Any]) -> Any:
    return next(value for value in values if not isinstance(value, int | float | type(None)))


def _run_names(table: Table) -> Column:
    """The `run` column, or, without one, what tells trajectories apart; else every row is a run of its own."""
    if "run" in table:
        return table["run"]
    present = [table[name] for name in _IDENTITY if name in table]
    if not present or "tokens" not in table:
        return np.array([str(row) for row in range(len(table))], dtype=object)
    return np.array(["/".join(str(value) for value in row) for row in zip(*present, strict=True)], dtype=object)
