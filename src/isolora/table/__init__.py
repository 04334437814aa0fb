"""The table of points: read from a study's store or any table of losses into columns of known names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from isolora import display
from isolora.errors import TableError, unknown
from isolora.metrics.direction import column_of
from isolora.paths import is_there
from isolora.store import FILE as STORE_NAME
from isolora.table.columns import (
    MEASURE_COLUMNS,
    SHORT_NAMES,
    TEXT_COLUMNS,
    Column,
    Rows,
    canonical_name,
    computed,
    renamed,
    repeated_rows,
    typed,
    unread,
    without_empty_texts,
    without_gaps,
)
from isolora.table.differences import MEASURED_ON, NOT_STUDIED, SETTINGS, VERIFY, differences, fields_in, joined_words
from isolora.table.formats import READERS, read_store, rows_of
from isolora.table.packaged_sizes import filled_sizes, known_sizes, name_without_size

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "MEASURED_ON",
    "NOT_STUDIED",
    "SETTINGS",
    "SHORT_NAMES",
    "STORE_NAME",
    "TEXT_COLUMNS",
    "VERIFY",
    "Column",
    "Rows",
    "Table",
    "canonical_name",
    "differences",
    "fields_in",
    "from_columns",
    "joined_words",
    "known_sizes",
    "name_without_size",
    "places_of",
    "read",
    "read_places",
    "read_store",
    "with_known_sizes",
]

_SHOWN_ROWS = 10
"""Rows of a table that a notebook shows."""
_IDENTITY = ("model", "method", "rank", "learning_rate", "seed", "body_parameters", "trainable_parameters")


@dataclass(frozen=True, repr=False)
class Table:
    """Columns of equal length: numbers as float64 (NaN where absent), names as text.

    `notes` are sentences about how it was read, `left_out` counts the rows that were not used, by reason. `used` are the source's
    own columns that were read under another name; `unread` says of a canonical name why a column called so was not read as it.
    `names_runs`: whether the source said which points are of one run.
    """

    columns: Mapping[str, Column]
    notes: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    used: frozenset[str] = frozenset()
    unread: Mapping[str, str] = field(default_factory=dict)
    names_runs: bool = True

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> Column:
        """Raises TableError, naming the columns there are, when there is none of that name."""
        if name not in self.columns:
            raise TableError(unknown("column", name, self.columns))
        return self.columns[name]

    def why_absent(self, name: str) -> str:
        """What follows an error about a missing column, after a semicolon; empty where nothing in the source is called so."""
        return f"; {self.unread[name]}" if name in self.unread else ""

    def where(self, chosen_M: NDArray[np.bool_] | NDArray[np.int64]) -> Table:
        """The rows that a mask or an index chooses."""
        return replace(self, columns={name: column[chosen_M] for name, column in self.columns.items()})

    def having(self, name: str, value: str) -> Table:
        """The rows with a value in a column, or in what their runs differ in (`data.max_length`). Raises TableError, naming
        what there is."""
        given = self._values(name)
        if given is None:
            differing = [key for column in (MEASURED_ON, SETTINGS) if column in self for key in fields_in(str(self[column][0]))]
            raise TableError(unknown("column", name, [*self.columns, *differing]))
        number = _number(value) if given.dtype == float else None
        chosen_M = given.astype(str) == value if number is None else given == number
        if not chosen_M.any():
            values = (
                [f"{each:g}" for each in np.unique(given)] if given.dtype == float else map(str, np.unique(given.astype(str)))
            )
            raise TableError(unknown(f"value of {name}", value, values))
        return self.where(chosen_M)

    def _values(self, name: str) -> Column | None:
        """A column, or what each row's run says of a key; None where there is neither."""
        if name in self:
            return self[name]
        for column in (MEASURED_ON, SETTINGS):
            if column in self and name in fields_in(str(self[column][0])):
                return np.array([fields_in(str(words)).get(name, "") for words in self[column]], dtype=object)
        return None

    def to_pandas(self) -> DataFrame:
        """The columns as a pandas data frame of its own: changing it leaves the table as it is."""
        from pandas import DataFrame

        return DataFrame({name: column.copy() for name, column in self.columns.items()})

    def __str__(self) -> str:
        """How many points and runs, which columns, and what was left out or said when it was read."""
        runs = f" of {len(set(self['run'])):,} runs" if "run" in self else ""
        left_out = [f"{count:,} left out: {reason}" for reason, count in self.left_out.items()]
        return "\n".join([f"{len(self):,} points{runs}; columns: {', '.join(self.columns)}", *left_out, *self.notes])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return display.table_html({name: column[:_SHOWN_ROWS] for name, column in self.columns.items()}, str(self))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def read(
    source: str | Path | Mapping[str, Sequence[object]] | DataFrame,
    mapping: Mapping[str, str] | None = None,
    measure: str = "loss",
) -> Table:
    """The points in a study's folder (or its SQLite file), in a table of any kind, or in a folder of PEFT results; or those of a
    pandas data frame, or of columns by name.

    `mapping` names the file's own column for a canonical or a short name: {"n": "params", "loss": "eval_nats"}; columns that
    are called what others call them (`eval/loss`, `N`, `compute`) are found without. Rows without a loss (NaN) are left out;
    with another `measure`, a column that is to be fitted, those that have neither it nor a loss.
    Raises TableError, one line, for everything else that cannot be used.
    """
    if isinstance(source, str | Path):
        return from_columns(_rows(source), mapping or {}, str(source), measure)
    return from_columns(_given_rows(source), mapping or {}, measure=measure)


def read_places(source: str | Path, mapping: Mapping[str, str] | None = None) -> Table:
    """The rows of a file as places to predict at: every row, in its order; a loss is not needed."""
    return places_of(_rows(source), mapping)


def places_of(rows: Rows, mapping: Mapping[str, str] | None = None) -> Table:
    """The same from raw columns."""
    return _named(rows, {name: column for name, column in (mapping or {}).items() if name != "loss"})


def from_columns(rows: Rows, mapping: Mapping[str, str], source: str = "table", measure: str = "loss") -> Table:
    """A table from raw columns: renamed, typed, checked, each row once. Raises TableError, one line."""
    named = _named(rows, mapping)
    sought = measure if measure == "loss" else column_of(measure, named.columns)  # names of a loss are known already
    table = _measured(named, source, sought, rows)
    if "loss" in table and (table["loss"] <= 0).any():
        raise TableError(f"column 'loss' of {source} must be positive; its smallest value is {table['loss'].min():g}")
    table = with_measure(with_known_sizes(table))
    _demand_positive(table, source)
    columns, without_place, notes = without_gaps(table.columns)
    found = replace(table, columns=columns, notes=(*table.notes, *notes), left_out={**table.left_out, **without_place})
    if not len(found):
        raise TableError(f"{source} has no point with a loss, a number of tokens and a size")
    return replace(found, columns={**columns, "run": _run_names(found)}, names_runs="run" in found)


def _measured(table: Table, source: str, measure: str, rows: Rows) -> Table:
    """The rows with a loss, or with another measure that is to be fitted, each of them once."""
    names = [name for name in dict.fromkeys(("loss", measure)) if name in table and table[name].dtype == float]
    if not names:
        lacks = "no loss column" if measure == "loss" else f"no column of numbers {measure!r} and no loss"
        advice = "map one with --map loss=COLUMN, or name a score with --target COLUMN"
        shown = f"(columns: {', '.join(rows) or 'none'})"
        raise TableError(f"{source} has {lacks}; {advice} {shown}{table.why_absent('loss')}")
    words = " or ".join(names)
    measured_M = np.any([np.isfinite(table[name]) for name in names], axis=0)
    if not measured_M.any():
        raise TableError(f"{source} has no point with a finite {words}")
    measured = table.where(measured_M)
    again_M = repeated_rows(measured.columns)
    left_out = {f"no {words}": int((~measured_M).sum()), "the same as an earlier row in every column": int(again_M.sum())}
    return replace(measured.where(~again_M), left_out={reason: count for reason, count in left_out.items() if count})


def _rows(source: str | Path) -> Rows:
    path = Path(source)
    if not is_there(path):
        raise TableError(f"source {str(source)!r} does not exist (valid: a study's folder, or a {', '.join(READERS)} file)")
    return rows_of(path)


def _given_rows(source: Mapping[str, Sequence[object]] | DataFrame) -> Rows:
    """Columns by name, of a mapping or a data frame; a data frame's missing values are None."""
    if isinstance(source, Mapping):
        return {str(name): list(values) for name, values in source.items()}
    if not hasattr(source, "notna") or not hasattr(source, "columns"):
        valid = "a path, a pandas data frame, or columns by name"
        raise TableError(f"a source is no {type(source).__name__} (valid: {valid})")
    if not source.columns.is_unique:
        raise TableError(f"the data frame has several columns of one name (columns: {', '.join(map(str, source.columns))})")
    filled = source.astype(object).where(source.notna(), None)
    return {str(name): filled[name].tolist() for name in filled.columns}


def _named(rows: Rows, mapping: Mapping[str, str]) -> Table:
    named, notes, used = renamed(rows, mapping)
    columns = {name: typed(name, values) for name, values in named.items()}
    columns |= computed(columns, mapping)
    missed = unread(rows, columns)
    columns, empty = without_empty_texts(columns)
    return Table(columns, (*notes, *missed.values(), *empty), used=used, unread=missed)


def with_measure(table: Table) -> Table:
    """With what each row was measured on, where columns of a foreign table say so and rows differ in them."""
    texts = [name for name in table.columns if name.lower() in MEASURE_COLUMNS and table[name].dtype == object]
    names = [name for name in texts if len(set(table[name])) > 1]
    if not names or MEASURED_ON in table or "config" in table:
        return table
    words = [joined_words(f"{name}={table[name][row]}" for name in names) for row in range(len(table))]
    return replace(table, columns={**table.columns, MEASURED_ON: np.array(words, dtype=object)})


def with_known_sizes(table: Table) -> Table:
    """With a base model's own size where the table lacks it and the model is known."""
    if "model" not in table:
        return table
    sizes, note = filled_sizes(table["model"], table.columns.get("body_parameters"))
    if not note or sizes is None:
        return table
    return replace(table, columns={**table.columns, "body_parameters": sizes}, notes=(*table.notes, note))


def _demand_positive(table: Table, source: str) -> None:
    """Tokens, and what grows with them, may be 0 before any training; a base model has weights."""
    for name in [name for name in SHORT_NAMES.values() if name in table]:
        wrong_M = table[name] <= 0 if name == "body_parameters" else table[name] < 0
        if wrong_M.any():
            raise TableError(f"column {name!r} of {source} must be positive; its smallest value is {np.nanmin(table[name]):g}")


def _run_names(table: Table) -> Column:
    """The `run` column, or, where it names none, what tells trajectories apart; else every row is a run of its own."""
    if "run" in table and all(table["run"]):
        return table["run"]
    own = _names_by_identity(table)
    return np.array([run or name for run, name in zip(table["run"], own, strict=True)], dtype=object) if "run" in table else own


def _names_by_identity(table: Table) -> Column:
    present = [table[name] for name in _IDENTITY if name in table]
    if not present or "tokens" not in table:
        return np.array([str(row) for row in range(len(table))], dtype=object)
    return np.array(["/".join(str(value) for value in row) for row in zip(*present, strict=True)], dtype=object)
