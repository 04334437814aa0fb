"""Local files as tables: Parquet, CSV, TSV, JSON Lines, text and Markdown; every failure is one line that names the file, and
the row where it lies in one."""

from __future__ import annotations

import difflib
import glob
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq

from isolora.data.origins import LeftOut, numbered
from isolora.errors import DataError


def read_table(path: Path, left_out: LeftOut) -> pa.Table:
    """The rows of one file, read as its ending says, with their origins.

    A text file is one row with the columns `text` and `file`; CSV's rows are numbered as a spreadsheet shows them, the header 1.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: cannot read {path.suffix or 'a file without an ending'} (valid: {', '.join(READERS)})")
    try:
        return reader(path, left_out)
    except pa.ArrowInvalid as failure:
        raise DataError(f"{path}: {first_line(failure)}") from None


def first_line(failure: Exception) -> str:
    return str(failure).partition("\n")[0]


def decoded(path: Path) -> str:
    """The file's text. Raises DataError with the byte offset and the line that is not UTF-8."""
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        # The codec counts from behind a byte-order mark when there is one.
        offset = failure.start + (len(raw) - len(failure.object))
        raise not_utf8(path, offset, raw.count(b"\n", 0, offset) + 1) from None


def not_utf8(path: Path, offset: int, line: int) -> DataError:
    return DataError(f"{path}: not UTF-8 at byte {offset} (line {line}); save it as UTF-8")


def _parquet(path: Path, left_out: LeftOut) -> pa.Table:
    # Opened by hand: given a path, pyarrow would take folder names such as `split=train` for columns.
    with path.open("rb") as file:
        return numbered(pq.read_table(file), f"{path} row")


def _csv(path: Path, left_out: LeftOut) -> pa.Table:
    data = decoded(path).encode()
    if not data.strip():
        raise DataError(f"{path}: empty file")
    rows = CsvRows(path, left_out)
    # One thread, so that an error can say in which row it lies.
    one_thread = pc_csv.ReadOptions(use_threads=False)
    table = pc_csv.read_csv(pa.BufferReader(data), parse_options=rows.options, read_options=one_thread)
    return rows.numbered(table)


class CsvRows:
    """How a CSV or TSV file's rows are told apart, and which of them are torn."""

    def __init__(self, path: Path, left_out: LeftOut) -> None:
        self.path, self.left_out, self.torn, self.next = path, left_out, set[int](), 2
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        self.options = pc_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=self._skip)

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
        return numbered(table, f"{self.path} row", rows)


def _json_lines(path: Path, left_out: LeftOut) -> pa.Table:
    return json_table(path, list(json_rows(path, left_out)), left_out)


def json_rows(path: Path, left_out: LeftOut) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line that holds one; lines that are empty are passed over."""
    with path.open("rb") as file:
        offset = 0
        for number, raw in enumerate(file, 1):
            line = _decoded_line(path, number, raw, offset)
            offset += len(raw)
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as failure:
                left_out.add(f"{path} line {number}", f"not JSON ({failure.msg}, column {failure.colno})")
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                left_out.add(f"{path} line {number}", f'{type(row).__name__}, not an object like {{"text": ...}}')


def _decoded_line(path: Path, number: int, raw: bytes, offset: int) -> str:
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as failure:
        raise not_utf8(path, offset + failure.start, number) from None
    return line.rstrip("\r\n").removeprefix("\ufeff" if number == 1 else "")


def json_table(path: Path, found: Sequence[tuple[int, Mapping[str, Any]]], left_out: LeftOut) -> pa.Table:
    """Objects as a table; where a column holds values of several types, those unlike the ones before cannot be used."""
    names = dict.fromkeys(name for _, row in found for name in row)
    for name in names:
        strange = _strangers([row.get(name) for _, row in found])
        for place, problem in strange.items():
            left_out.add(f"{path} line {found[place][0]}", f"{name} {problem}")
        if strange:
            return json_table(path, [pair for place, pair in enumerate(found) if place not in strange], left_out)
    table = pa.table({name: [row.get(name) for _, row in found] for name in names})
    return numbered(table, f"{path} line", [number for number, _ in found])


def _strangers(values: Sequence[Any]) -> dict[int, str]:
    """Places of values that do not go with those before them, and what is wrong with each."""
    if _go_together(values):
        return {}
    fitting, beyond = 0, len(values)
    while beyond - fitting > 1:  # the longest beginning that goes together
        middle = (fitting + beyond) // 2
        fitting, beyond = (middle, beyond) if _go_together(values[:middle]) else (fitting, middle)
    model = next(value for value in reversed(values[:fitting]) if value is not None)
    strange = [place for place in range(fitting, len(values)) if not _go_together([model, values[place]])] or [fitting]
    return {place: f"holds {type(values[place]).__name__}, rows before it {type(model).__name__}" for place in strange}


def _go_together(values: Sequence[Any]) -> bool:
    try:
        pa.array(values)
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return False
    return True


def _text(path: Path, left_out: LeftOut) -> pa.Table:
    return numbered(pa.table({"text": [decoded(path).strip()], "file": [str(path)]}), f"{path} row")


READERS: dict[str, Callable[[Path, LeftOut], pa.Table]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _csv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".txt": _text,
    ".md": _text,
}
TEXT_ENDINGS = (".txt", ".md")


def read_files(source: str, left_out: LeftOut) -> pa.Table:
    """The rows of one file, or of all files of a glob.

    A glob's text files are a document each; a single one is cut at empty lines.
    """
    paths = matches(source)
    if len(paths) == 1 and paths[0].suffix.lower() in TEXT_ENDINGS:
        paragraphs = [part.strip() for part in re.split(r"\n[ \t]*\n", decoded(paths[0])) if part.strip()]
        return numbered(pa.table({"text": pa.array(paragraphs, pa.string())}), f"{paths[0]} paragraph")
    try:
        return pa.concat_tables([read_table(path, left_out) for path in paths], promote_options="permissive")
    except pa.ArrowTypeError as failure:
        raise DataError(f"{source}: files with different columns ({first_line(failure)})") from None


def matches(source: str) -> list[Path]:
    """The files that a path or a glob means, sorted. Raises DataError, naming those nearby, when there are none."""
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
    if not found:
        raise DataError(f"data.source: no such file: {source}{nearby(path)}")
    return found


def nearby(path: Path) -> str:
    """What may have been meant: the likest names in the folder, or the files there that could be read."""
    folder = path.parent
    if not folder.is_dir():
        return "" if glob.has_magic(str(folder)) else f"; there is no folder {folder}"
    there = sorted(other.name for other in folder.iterdir() if other.suffix.lower() in READERS)
    near = difflib.get_close_matches(path.name, there, n=3) or there[:5]
    return f" (in that folder: {', '.join(near)})" if near else f" (no file in {folder} can be read; valid: {', '.join(READERS)})"
