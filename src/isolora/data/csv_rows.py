"""CSV and TSV: what separates the fields, which rows are torn, and numbers that are names: 007 is not 7."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv

from isolora.data.origins import LeftOut, refuse_twice, with_origins

DELIMITERS = ",;\t|"
SNIFFED_BYTES = 1 << 16
CSV_BLOCK_BYTES = 1 << 24
"""The longest row of a CSV file that is streamed."""
LEADING_ZERO, LONG_NUMBER = r"^\s*[+-]?0[0-9]", r"^\s*[+-]?[0-9]{16,}\s*$"
"""What numbers lose: zeros in front, and as floats the digits beyond 2**53."""


class CsvRows:
    """How the rows of a CSV or TSV file are parsed, and which of them have too few or too many fields."""

    def __init__(self, path: Path, left_out: LeftOut) -> None:
        self.path, self.left_out, self.torn, self.next = path, left_out, set[int](), 2
        with path.open("rb") as file:
            head = file.read(SNIFFED_BYTES).decode("utf-8-sig", errors="replace")
        delimiter = delimiter_of(head, "\t" if path.suffix.lower() == ".tsv" else ",")
        self.options = pc_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=self._skip)

    def read(self, data: bytes) -> pa.Table:
        """The rows, their columns' types found by pyarrow. One thread, so that an error can say in which row it lies; one block,
        so that a long field is in one."""
        return pc_csv.read_csv(pa.BufferReader(data), parse_options=self.options, read_options=_in_one_block(data))

    def as_written(self, table: pa.Table, data: bytes) -> pa.Table:
        """The table with columns of numbers as text where a number would lose something of what is written."""
        for name, kept in self._written(table, data).items():
            table = table.set_column(table.column_names.index(name), name, kept)
        return table

    def types(self, head: bytes) -> dict[str, pa.DataType]:
        """Columns that are text, for a file that begins so, although all of it are numbers."""
        data = head[: head.rfind(b"\n") + 1]
        try:
            table = pc_csv.read_csv(pa.BufferReader(data), parse_options=self._quiet(), read_options=_in_one_block(data))
            return dict.fromkeys(self._written(table, data), pa.string())
        except pa.ArrowException:  # the reader itself will say what is wrong
            return {}

    def _written(self, table: pa.Table, data: bytes) -> dict[str, pa.ChunkedArray]:
        """Columns of numbers that are not kept as such, as they are written."""
        numbers = [field.name for field in table.schema if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)]
        if not numbers or len(set(table.column_names)) < table.num_columns:
            return {}
        as_text = pc_csv.ConvertOptions(include_columns=numbers, column_types=dict.fromkeys(numbers, pa.string()))
        text = pc_csv.read_csv(pa.BufferReader(data), _in_one_block(data), self._quiet(), as_text)
        found = {}
        for name in numbers:
            losing = LEADING_ZERO if pa.types.is_integer(table.schema.field(name).type) else f"{LEADING_ZERO}|{LONG_NUMBER}"
            if pc.any(pc.match_substring_regex(text[name], losing)).as_py():
                found[name] = pc.if_else(table[name].is_null(), pa.scalar(None, pa.string()), text[name])
        return found

    def _quiet(self) -> pc_csv.ParseOptions:
        """For a second reading, which leaves out the rows that the first one has left out."""
        skip = self.left_out.skip
        return pc_csv.ParseOptions(
            delimiter=self.options.delimiter,
            newlines_in_values=True,
            invalid_row_handler=lambda row: "skip" if skip else "error",
        )

    def _skip(self, row: pc_csv.InvalidRow) -> str:
        if self.left_out.skip:  # else pyarrow's own error names the row
            problem = f"{row.actual_columns} columns, not {row.expected_columns}"
            self.left_out.add(f"{self.path} row {row.number}", problem)
            self.torn.add(row.number)
            return "skip"
        return "error"

    def numbered(self, table: pa.Table) -> pa.Table:
        """The next rows of the file with their origins."""
        rows: list[int] = []
        while len(rows) < table.num_rows:
            rows += [self.next] * (self.next not in self.torn)
            self.next += 1
        refuse_twice(table.column_names, self.path)
        return with_origins(table, f"{self.path} row", rows)


def _in_one_block(data: bytes) -> pc_csv.ReadOptions:
    return pc_csv.ReadOptions(use_threads=False, block_size=min(max(len(data) + 1, 1 << 20), 2**31 - 1))


def delimiter_of(head: str, usual: str) -> str:
    """What separates the fields of a file that begins so: another delimiter than the usual one, where the header has that one
    alone and most of the first rows have as many fields as the header."""
    others = [delimiter for delimiter in DELIMITERS if delimiter != usual and _separates(head, delimiter)]
    return others[0] if others and len(_first_rows(head, usual)[0]) == 1 else usual


def _separates(head: str, delimiter: str) -> bool:
    rows = _first_rows(head, delimiter)
    names = rows[0] if rows else []
    return len(names) > 1 and all(map(str.strip, names)) and 2 * sum(len(row) == len(names) for row in rows) > len(rows)


def _first_rows(head: str, delimiter: str) -> list[list[str]]:
    return [row for row in islice(_parsed(head, delimiter), 21) if row]


def _parsed(head: str, delimiter: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(io.StringIO(head), delimiter=delimiter)
    except csv.Error:  # such as a field beyond the module's own limit; the real reader will say what is wrong
        return
