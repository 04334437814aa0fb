"""Sweeps of other tools as a table that laws are fitted to: one importer a file, found by its name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from isolora import registry
from isolora.errors import TableError, UserError, in_brief, unknown
from isolora.imports.base import Importer, LoggedRun, Read
from isolora.imports.tracked_points import COLUMNS, points_of_runs
from isolora.json_types import JsonMapping, JsonObject
from isolora.paths import is_there, written_whole

ENDINGS = (".csv", ".parquet", ".jsonl")


@dataclass(frozen=True)
class Imported:
    """What was written. left_out: what was not used, by reason; notes: what was assumed, in sentences with counts."""

    out: Path
    runs: int
    points: int
    columns: tuple[str, ...]
    left_out: Mapping[str, int]
    notes: tuple[str, ...]

    def to_json(self) -> JsonObject:
        """The answer of `isolora import --json`."""
        lists = {"columns": list(self.columns), "left_out": dict(self.left_out), "notes": list(self.notes)}
        return {"out": str(self.out), "runs": self.runs, "points": self.points, **lists}

    def __str__(self) -> str:
        lines = [f"{self.out}: {self.points} points of {self.runs} runs; columns {', '.join(self.columns)}"]
        lines += [f"  left out: {count} {reason}" for reason, count in self.left_out.items()]
        return "\n".join([*lines, *(f"  mind: {note}" for note in self.notes), f"next: isolora fit {self.out}"])


def import_runs(source: Path | str, tool: str, out: Path | str) -> Imported:
    """Read a tool's runs and write them as a table, CSV, Parquet or JSON Lines by the ending of `out`.

    Raises ConfigError for an unknown tool, MissingExtra where its package is needed, TableError for files that are none of its,
    or that hold no loss.
    """
    source, out = Path(source), Path(out)
    importer = registry.ready("importer", tool)
    if out.suffix.lower() not in ENDINGS:
        raise TableError(f"--out: {unknown('kind of table', out.suffix or out.name, ENDINGS)}")
    if not is_there(source):
        raise TableError(f"SOURCE: {source} does not exist; {tool} reads {importer.reads}")
    rows, left_out, notes = points_of_runs(_read(importer, source))
    if not rows:
        why = "; ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise TableError(f"SOURCE: {source} holds no run with a loss ({why or 'no runs'})")
    columns = _columns(rows)
    write_table(columns, out)
    return Imported(out, len(set(columns["run"])), len(rows), tuple(columns), left_out, (*notes, *_missing(columns)))


def _read(importer: Importer, source: Path) -> Read:
    """What an importer finds. Files that only look like its tool's fail in a hundred ways: each becomes one line here."""
    try:
        found = importer.read(source)
    except UserError as error:
        raise TableError(str(error) if str(error).startswith("SOURCE: ") else f"SOURCE: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        if registry.package_of("importer", importer.name):
            raise
        why = in_brief(f"{type(error).__name__}: {error}")
        raise TableError(f"SOURCE: {source} is not as {importer.name} writes it ({why})") from error
    kept = isinstance(found, Read) and all(isinstance(run, LoggedRun) for run in found.runs)
    registry.owed(
        "importer", importer.name, kept, f"read() gave {type(found).__name__}; expected Read with a LoggedRun for each run"
    )
    return found


def _columns(rows: Sequence[JsonMapping]) -> dict[str, list[Any]]:
    """Columns in the table's order; None where a run has nothing for one."""
    names = [*COLUMNS, *sorted({name for row in rows for name in row} - set(COLUMNS))]
    found = {name: [row.get(name) for row in rows] for name in names}
    return {name: values for name, values in found.items() if any(value is not None for value in values)}


def _missing(columns: Mapping[str, Sequence[object]]) -> list[str]:
    """What laws and plans would like to read and the tool did not keep."""
    wanted = {
        "tokens": "no tokens are known: log them, or map a column with --map d=COLUMN",
        "model": "no model is named: a plan needs one, or its size as n",
    }
    said = [sentence for name, sentence in wanted.items() if name not in columns]
    if not {"flops", "seconds"} & columns.keys():
        said.append("neither FLOPs nor seconds are known: a plan has no prices")
    return said


def write_table(columns: Mapping[str, Sequence[object]], out: Path) -> None:
    """Write a table; folders on the way are made."""
    table = pa.table({name: _arrow(values) for name, values in columns.items()})
    with written_whole(out, "--out") as draft:
        if out.suffix.lower() == ".csv":
            pa.csv.write_csv(table, draft)
        elif out.suffix.lower() == ".parquet":
            pa.parquet.write_table(table, draft)
        else:
            draft.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()), encoding="utf-8")


def _arrow(values: Sequence[object]) -> pa.Array:
    """A column; one of values that Arrow has no one type for, such as a model called by a number beyond 64 bits, as text; half a
    character, which JSON can write and UTF-8 cannot, becomes a question mark."""
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        texts = [None if value is None else str(value).encode("utf-8", "replace").decode() for value in values]
        return pa.array(texts)
