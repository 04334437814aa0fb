"""Origins: the file and the row that each document comes from, and a record of the rows that cannot be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from isolora.errors import DataError

PLACE, ROW = "isolora:place", "isolora:row"
"""Columns beside a table's own while it is divided and drawn: such as `people.jsonl line`, and 17."""
SHOWN = 3
"""How many of the rows left out are named."""


class LeftOut:
    """Rows that cannot be used. The first one raises DataError, unless such rows are skipped: then each is remembered."""

    def __init__(self, skip: bool) -> None:
        self.skip, self.rows = skip, list[str]()

    def add(self, origin: str, problem: str) -> None:
        """Raises DataError, naming file and row, unless such rows are skipped."""
        if not self.skip:
            raise DataError(f"data: {origin}: {problem}")
        self.rows.append(f"{origin}: {problem}")


def left_out_summary(left_out: Sequence[str]) -> str:
    """How many rows were left out, and which came first, in one line."""
    shown = [*left_out[:SHOWN], *(["..."] if len(left_out) > SHOWN else [])]
    return f"{len(left_out)} row{'s' * (len(left_out) != 1)} of the data left out ({'; '.join(shown)})"


def with_origins(table: pa.Table, place: str, rows: Sequence[int] | None = None) -> pa.Table:
    """The table with its rows' origins: `place` and, where not given, their numbers from 1. Raises DataError for a table that has
    columns of these names already."""
    if reserved := {PLACE, ROW} & set(table.column_names):
        raise DataError(f"{place.rpartition(' ')[0]}: {min(reserved)} is a name of isolora's own; rename the column")
    places = pa.DictionaryArray.from_arrays(pa.nulls(table.num_rows, pa.int32()).fill_null(0), [place])
    numbers = pa.array(range(1, table.num_rows + 1) if rows is None else rows, pa.int64())
    return table.append_column(PLACE, places).append_column(ROW, numbers)


def refuse_twice(names: Sequence[str], path: Path) -> None:
    """Raises DataError for a name that two columns have."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path}: {len(names)} columns, of which several are called {twice[0]!r}")


def own_columns(table: pa.Table) -> pa.Table:
    """The table's own columns."""
    return table.drop_columns([name for name in (PLACE, ROW) if name in table.column_names])


def row_origins(table: pa.Table) -> list[str]:
    """The origin of each row, such as `people.jsonl line 17`."""
    pairs = zip(table[PLACE].to_pylist(), table[ROW].to_pylist(), strict=True)
    return [f"{place} {row}" for place, row in pairs]


def file_of(table: pa.Table | None) -> str:
    """The first file that the rows come from."""
    if table is None or PLACE not in table.column_names or not table.num_rows:
        return "the data"
    return str(table[PLACE][0]).rpartition(" ")[0]
