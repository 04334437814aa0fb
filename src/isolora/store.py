"""The store, the door between the wings: runs, their states and their points in one SQLite file (WAL).

A run's identity is the hash of its configuration, so that asking for the same run again finds its points. Points are
written with INSERT OR REPLACE: a run that resumes from a checkpoint writes the same rows again.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import MISSING, Field, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from isolora.errors import TableError
from isolora.json_types import JsonMapping, JsonObject

FILE = "study.sqlite"
PENDING, RUNNING, DONE, DIVERGED, FAILED = "PENDING", "RUNNING", "DONE", "DIVERGED", "FAILED"
PRUNED = "PRUNED"  # ended early by a search; its points stand
INTERRUPTED, OUT_OF_MEMORY = "INTERRUPTED", "OUT_OF_MEMORY"
ENDED = (DONE, DIVERGED, PRUNED)
"""States that a later call leaves alone; all others are taken up again."""

STATE_NAMES = {
    PENDING: "queued",
    RUNNING: "running",
    INTERRUPTED: "interrupted",
    DIVERGED: "diverged",
    PRUNED: "pruned",
    OUT_OF_MEMORY: "out-of-memory",
    FAILED: "failed",
    DONE: "complete",
}
"""What a person reads, in every answer; stores of every version hold the keys."""


def state_name(stored: str) -> str:
    """The word for a state as it is stored."""
    return STATE_NAMES.get(stored, str(stored).lower())


@dataclass(frozen=True)
class Run:
    """One trajectory and the knobs that laws and people look at."""

    run: str
    stage: str  # "tune", "grid", "search" or "final" within a study, "train" alone, "verify" for the proof of a recommendation
    model: str
    task: str
    method: str
    rank: int | None
    learning_rate: float
    seed: int
    config: str  # JSON


@dataclass(frozen=True)
class Point:
    """One evaluation of one trajectory. Losses in nats per token; seconds of training, evaluation left out; memory in bytes, as
    the ledger predicts it for the run on its own."""

    run: str
    step: int
    tokens: int
    padding_tokens: int
    unique_tokens: int
    unique_examples: int
    passes: float
    body_parameters: int
    model_parameters: int
    trainable_parameters: int
    flops: float
    seconds: float
    loss: float
    train_loss: float
    peak_memory_bytes: int
    metrics: str = "{}"  # JSON
    forgetting: float | None = None  # nats a token that texts the run is not for have lost since before it
    flops_by_group: str = "{}"  # JSON: module group -> phase -> FLOPs


@dataclass(frozen=True)
class Trial:
    """One suggestion of a search, all that is needed to go on with it. round: suggested together, before any of them was told;
    value: the metric at the end; curve: evaluation number -> metric; rungs: what the pruner has noted of it."""

    search: str
    number: int
    round: int
    run: str
    parameters: str  # JSON
    state: str = RUNNING
    value: float | None = None
    curve: str = "{}"  # JSON
    rungs: str = "{}"  # JSON


_SQL_TYPES = {"str": "TEXT", "int": "INTEGER", "float": "REAL", "int | None": "INTEGER", "float | None": "REAL"}


def _columns(record: type) -> str:
    return ", ".join(map(_column, fields(record)))


def _column(field: Field[Any]) -> str:
    default = "" if field.default in (MISSING, None) else f" DEFAULT '{field.default}'"
    return f"{field.name} {_SQL_TYPES[str(field.type)]}{default}"


_OWN_COLUMNS = {"state": "TEXT NOT NULL DEFAULT 'PENDING'", "reason": "TEXT", "environment": "TEXT", "changed": "REAL"}
"""Columns of runs that the store itself keeps."""

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS runs ({_columns(Run)}, {", ".join(f"{name} {kind}" for name, kind in _OWN_COLUMNS.items())},
    PRIMARY KEY (run));
CREATE TABLE IF NOT EXISTS points ({_columns(Point)}, PRIMARY KEY (run, tokens));
CREATE TABLE IF NOT EXISTS trials ({_columns(Trial)}, PRIMARY KEY (search, number));
"""


class Store:
    """A study's folder with its database. Safe for several processes; each call is one transaction.

    A store in a folder that cannot be written is read all the same; writing to it raises sqlite3.OperationalError.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / FILE
        self.read_only = self.path.is_file() and not _is_writable(self.path)
        if self.read_only:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._connection() as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(_SCHEMA)
        self._add_new_columns()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with reading(self.path) if self.read_only else closing(sqlite3.connect(self.path, timeout=60)) as connection:
            connection.row_factory = sqlite3.Row
            with connection:
                yield connection

    def _add_new_columns(self) -> None:
        """Bring a store that an earlier version wrote up to date; what it did not note has the field's default."""
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")  # of several processes that open the store at once, the first one adds
            for table, record in (("runs", Run), ("points", Point), ("trials", Trial)):
                known = {row["name"] for row in connection.execute(f"PRAGMA table_info({table})")}
                wanted = {field.name: _column(field) for field in fields(record)}
                if record is Run:
                    wanted |= {name: f"{name} {kind}" for name, kind in _OWN_COLUMNS.items()}
                for name in wanted.keys() - known:
                    connection.execute(f"ALTER TABLE {table} ADD COLUMN {wanted[name]}")

    def add(self, runs: Iterable[Run], environment: JsonMapping) -> None:
        """Enter runs as PENDING; those already known keep their state."""
        with self._connection() as connection:
            for run in runs:
                row = {**asdict(run), "state": PENDING, "environment": json.dumps(environment), "changed": time.time()}
                _insert(connection, "INSERT OR IGNORE", "runs", row)

    def set_state(self, runs: Iterable[str], state: str, reason: str = "") -> None:
        with self._connection() as connection:
            rows = [(state, reason, time.time(), run) for run in runs]
            connection.executemany("UPDATE runs SET state = ?, reason = ?, changed = ? WHERE run = ?", rows)

    def in_state(self, state: str) -> list[str]:
        """Runs in a state, in their order."""
        return [row["run"] for row in self._rows("SELECT run FROM runs WHERE state = ? ORDER BY rowid", (state,))]

    def ended(self) -> set[str]:
        """Runs that a later call leaves alone."""
        return {run for run, state in self.states().items() if state in ENDED}

    def has_points(self) -> bool:
        return bool(self._rows("SELECT 1 FROM points LIMIT 1"))

    def count_points(self) -> int:
        return int(self._rows("SELECT COUNT(*) AS points FROM points")[0]["points"])

    def last_points(self) -> list[JsonObject]:
        """The newest point of every run that has one, joined with its run."""
        newest = "(SELECT run, MAX(tokens) AS tokens FROM points GROUP BY run)"
        join = f"FROM {newest} JOIN points USING (run, tokens) JOIN runs USING (run)"
        return self._rows(f"SELECT runs.*, points.* {join} ORDER BY runs.rowid")

    def note(self, run: str, facts: JsonMapping) -> None:
        """Add JSON values to what is known of where and how a run took place."""
        with self._connection() as connection:
            connection.execute(
                "UPDATE runs SET environment = json_patch(COALESCE(environment, '{}'), ?) WHERE run = ?", (json.dumps(facts), run)
            )

    def write(self, points: Iterable[Point]) -> None:
        with self._connection() as connection:
            for point in points:
                _insert(connection, "INSERT OR REPLACE", "points", asdict(point))

    def settle(self, run: str, measures: Mapping[int, Mapping[str, float]]) -> None:
        """Enter what is now known to be the `loss` of points [by tokens], and what restates it."""
        with self._connection() as connection:
            for tokens, found in measures.items():
                restated = json.dumps({name: value for name, value in found.items() if name != "loss"})
                connection.execute(
                    "UPDATE points SET loss = ?, metrics = json_patch(metrics, ?) WHERE run = ? AND tokens = ?",
                    (found["loss"], restated, run, tokens),
                )

    def keep_trials(self, trials: Iterable[Trial]) -> None:
        """Enter trials, or what has become of them."""
        with self._connection() as connection:
            for trial in trials:
                _insert(connection, "INSERT OR REPLACE", "trials", asdict(trial))

    def trials(self, search: str | None = None) -> list[Trial]:
        """Trials of one search, the newest where none is named, in the order in which they were suggested."""
        named = "?" if search else "(SELECT search FROM trials ORDER BY rowid DESC LIMIT 1)"
        rows = self._rows(f"SELECT * FROM trials WHERE search = {named} ORDER BY number", (search,) if search else ())
        return [Trial(**row) for row in rows]

    def states(self) -> dict[str, str]:
        with self._connection() as connection:
            return {row["run"]: row["state"] for row in connection.execute("SELECT run, state FROM runs")}

    def runs(self) -> list[JsonObject]:
        return self._rows("SELECT * FROM runs ORDER BY rowid")

    def points(self, run: str | None = None) -> list[JsonObject]:
        """Points joined with their runs, in order of run and tokens; of one run when given."""
        where = "WHERE points.run = ?" if run else ""
        query = (
            f"SELECT runs.*, points.* FROM points JOIN runs ON runs.run = points.run {where} ORDER BY runs.rowid, points.tokens"
        )
        return self._rows(query, (run,) if run else ())

    def _rows(self, query: str, values: tuple[object, ...] = ()) -> list[JsonObject]:
        with self._connection() as connection:
            return [dict(row) for row in connection.execute(query, values)]


def adapter_place(folder: Path, stage: str, run: str) -> Path:
    """Where a run's adapter lies: `adapter` for a run trained alone or at the end of a search, `recommended` for a verified one,
    else `adapters/RUN`."""
    alone = {"train": "adapter", "final": "adapter", "verify": "recommended"}
    return folder / alone[stage] if stage in alone else folder / "adapters" / run


def read_points(path: Path) -> list[JsonObject]:
    """Every point of a store's file with its run's fields, without writing to it; points of no known run come too.

    Raises TableError, one line, for a file that is no store.
    """
    try:
        with reading(path) as connection:
            connection.row_factory = sqlite3.Row
            points = [dict(row) for row in connection.execute("SELECT * FROM points")]
            known = connection.execute("SELECT name FROM sqlite_master WHERE name = 'runs'").fetchone()
            runs = {row["run"]: dict(row) for row in connection.execute("SELECT * FROM runs")} if known else {}
    except (sqlite3.Error, OSError) as error:
        raise TableError(f"store {str(path)!r} cannot be read: {error}") from error
    return [{**runs.get(point["run"], {}), **point} for point in points]


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A store's file opened for reading, also from a folder that cannot be written. Raises sqlite3.Error for what is no store.

    There, SQLite refuses a store whose log (WAL) a process that died has left behind: it is read from a copy.
    """
    uri, log = path.resolve().as_uri(), path.with_name(f"{path.name}-wal")
    if _is_writable(path):
        with closing(sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=60)) as connection:
            yield connection
    elif not log.is_file() or log.stat().st_size == 0:
        with closing(sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True)) as connection:
            yield connection
    else:
        with tempfile.TemporaryDirectory() as aside:
            for part in (path, log):
                shutil.copyfile(part, Path(aside) / part.name)
            with closing(sqlite3.connect(Path(aside) / path.name)) as connection:
                yield connection


def _is_writable(path: Path) -> bool:
    return os.access(path.parent, os.W_OK) and os.access(path, os.W_OK)


def _insert(connection: sqlite3.Connection, verb: str, table: str, row: JsonMapping) -> None:
    names = ", ".join(row)
    marks = ", ".join(f":{name}" for name in row)
    connection.execute(f"{verb} INTO {table} ({names}) VALUES ({marks})", dict(row))
