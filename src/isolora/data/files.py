"""Local files as tables: Parquet, CSV, TSV, JSON Lines, text and Markdown; every failure is one line that names the file, and
the row where it lies in one."""

from __future__ import annotations

import difflib
import glob
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from isolora.data.csv_rows import CsvRows
from isolora.data.origins import LeftOut, refuse_twice, with_origins
from isolora.errors import DataError, UserError, in_brief
from isolora.json_types import JsonMapping, JsonObject
from isolora.paths import expanded, is_file, is_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NOT_ARROW = (pa.ArrowException, ArithmeticError, LookupError, RecursionError, RuntimeError, TypeError, ValueError)
"""What readers raise for contents that they cannot read; UnicodeError is a ValueError."""


@contextmanager
def one_line(path: Path | str) -> Iterator[None]:
    """Failures of a reader as one line that names the file."""
    try:
        yield
    except UserError:
        raise
    except OSError as failure:
        raise DataError(f"{path}: cannot be read ({failure.strerror or in_brief(failure)})") from None
    except NOT_ARROW as failure:
        raise DataError(f"{path}: {in_brief(failure)}") from None


def read_table(path: Path, left_out: LeftOut) -> pa.Table:
    """The rows of one file, read as its ending says, with their origins.

    A text file is one row with the columns `text` and `file`; CSV's rows are numbered as a spreadsheet shows them, the header 1.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: cannot read {path.suffix or 'a file without an ending'} (valid: {', '.join(READERS)})")
    with one_line(path):
        return reader(path, left_out)


def decoded(path: Path) -> str:
    """The file's text. Raises DataError with the byte offset and the line that is not UTF-8."""
    raw = path.read_bytes()
    if (offset := raw.find(b"\0")) >= 0:
        line = raw.count(b"\n", 0, offset) + 1
        if raw.count(b"\0") > len(raw) // 4:  # UTF-16 of plain letters is UTF-8 too, with a NUL beside each
            raise not_utf8(path, offset, line)
        raise DataError(f"{path}: a zero byte at byte {offset} (line {line}), which is no text; take it out")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        # The codec counts from behind a byte-order mark when there is one.
        offset = failure.start + (len(raw) - len(failure.object))
        raise not_utf8(path, offset, raw.count(b"\n", 0, offset) + 1) from None


def not_utf8(path: Path, offset: int, line: int) -> DataError:
    return DataError(f"{path}: not UTF-8 at byte {offset} (line {line}); save it as UTF-8 (spreadsheets call it CSV UTF-8)")


# Parquet


def _parquet(path: Path, left_out: LeftOut) -> pa.Table:
    # Opened by hand: given a path, pyarrow would take folder names such as `split=train` for columns.
    with path.open("rb") as file:
        return with_origins(plain_types(parquet_file(file, path).read()), f"{path} row")


def parquet_file(file: object, path: Path, **options: object) -> pq.ParquetFile:
    """An open Parquet file. Raises DataError for a name that two columns have."""
    found = pq.ParquetFile(file, **options)
    refuse_twice(found.schema_arrow.names, path)
    return found


def plain_types(table: pa.Table) -> pa.Table:
    """The table with dictionaries and views of strings, which few functions of Arrow take, as what they stand for."""
    schema = pa.schema([field.with_type(_plain(field.type)) for field in table.schema], table.schema.metadata)
    if schema.equals(table.schema):
        return table
    columns = [
        column if column.type == field.type else pa.chunked_array([pa.array(column.to_pylist(), field.type)])
        for column, field in zip(table.columns, schema, strict=True)
    ]
    return pa.table(columns, schema=schema)


def _plain(kind: pa.DataType) -> pa.DataType:
    types = pa.types
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _plain(kind.value_type)
    if types.is_string_view(kind):
        return pa.string()
    if types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if lists or types.is_list_view(kind) or types.is_large_list_view(kind):
        return pa.list_(_plain(kind.value_type))
    return kind


# CSV and TSV


def _csv(path: Path, left_out: LeftOut) -> pa.Table:
    data = decoded(path).encode()
    if not data.strip():
        raise DataError(f"{path}: empty file")
    rows = CsvRows(path, left_out)
    return rows.numbered(rows.as_written(rows.read(data), data))


# JSON Lines


def _json_lines(path: Path, left_out: LeftOut) -> pa.Table:
    return json_table(path, list(json_rows(path, left_out)), left_out)


def json_rows(path: Path, left_out: LeftOut) -> Iterator[tuple[int, JsonObject]]:
    """(line number, object) of every line that holds one; lines that are empty are passed over."""
    with path.open("rb") as file:
        offset = 0
        for number, raw in enumerate(file, 1):
            line = _decoded_line(path, number, raw, offset)
            offset += len(raw)
            if not line.strip():
                continue
            try:
                row = json.loads(line, object_pairs_hook=_unique_keys)
            except json.JSONDecodeError as failure:
                left_out.add(f"{path} line {number}", f"not JSON ({failure.msg}, column {failure.colno})")
            except (ValueError, RecursionError) as failure:  # a key given twice, thousands of digits, nested too deep
                left_out.add(f"{path} line {number}", in_brief(failure))
            else:
                if isinstance(row, dict):
                    yield number, row
                else:
                    left_out.add(f"{path} line {number}", f'{type(row).__name__}, not an object like {{"text": ...}}')


def _unique_keys(pairs: Sequence[tuple[str, object]]) -> JsonObject:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return found


def _decoded_line(path: Path, number: int, raw: bytes, offset: int) -> str:
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as failure:
        raise not_utf8(path, offset + failure.start, number) from None
    return line.rstrip("\r\n").removeprefix("\ufeff" if number == 1 else "")


def json_table(path: Path, found: Sequence[tuple[int, JsonMapping]], left_out: LeftOut) -> pa.Table:
    """Objects as a table; where a column holds values of several types, those unlike the ones before cannot be used."""
    names = dict.fromkeys(name for _, row in found for name in row)
    for name in names:
        misfits = _misfits([row.get(name) for _, row in found])
        if not _is_text(name):
            misfits = dict.fromkeys((place for place, (_, row) in enumerate(found) if name in row), "is half of a surrogate pair")
        for place, problem in sorted(misfits.items()):
            left_out.add(f"{path} line {found[place][0]}", f"{printable(name)} {problem}")
        if misfits:
            return json_table(path, [pair for place, pair in enumerate(found) if place not in misfits], left_out)
    table = pa.table({name: [row.get(name) for _, row in found] for name in names})
    return with_origins(table, f"{path} line", [number for number, _ in found])


def _misfits(values: Sequence[object]) -> dict[int, str]:
    """Places of values that are of no type, or of another than those before them, and what is wrong with each."""
    if _fit(values):
        return {}
    if alone := {place: _misfit(value) for place, value in enumerate(values) if not _fit([value])}:
        return alone
    fitting, beyond = 0, len(values)
    while beyond - fitting > 1:  # the longest beginning that fits together
        middle = (fitting + beyond) // 2
        fitting, beyond = (middle, beyond) if _fit(values[:middle]) else (fitting, middle)
    model = next(value for value in reversed(values[:fitting]) if value is not None)
    strange = [place for place in range(fitting, len(values)) if not _fit([model, values[place]])] or [fitting]
    return {place: _unlike(values[place], model) for place in strange}


def _unlike(value: object, model: PreTrainedModel) -> str:
    name, before = type(value).__name__, type(model).__name__
    if name == before == "int":
        return "holds a whole number beyond 64 bits"
    return f"holds {name}, rows before it {before if before != name else f'another kind of {name}'}"


def _misfit(value: object) -> str:
    """Why a value alone is of no type."""
    text = json.dumps(value, ensure_ascii=False)
    if not _is_text(text):
        return "holds half of a surrogate pair, which is no text"
    if re.search(r"\d{19}", text):
        return "holds a whole number beyond 64 bits"
    return f"holds {type(value).__name__} with values of several types"


def _is_text(text: str) -> bool:
    """Whether it can be written as UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _fit(values: Sequence[object]) -> bool:
    try:
        pa.array(values)
    except NOT_ARROW:
        return False
    return True


# Text


def _text(path: Path, left_out: LeftOut) -> pa.Table:
    return with_origins(pa.table({"text": [decoded(path).strip()], "file": [str(path)]}), f"{path} row")


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
    paths = matching_files(source)
    if len(paths) == 1 and paths[0].suffix.lower() in TEXT_ENDINGS:
        with one_line(paths[0]):
            paragraphs = [part.strip() for part in re.split(r"\n[ \t]*\n", decoded(paths[0])) if part.strip()]
        return with_origins(pa.table({"text": pa.array(paragraphs, pa.string())}), f"{paths[0]} paragraph")
    tables = [read_table(path, left_out) for path in paths]
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as failure:
        raise DataError(f"{source}: files with different columns ({in_brief(failure)})") from None


def matching_files(source: str) -> list[Path]:
    """The files that a path or a glob means, sorted. Raises DataError, naming those suggestions, when there are none."""
    path = expanded(source)
    if is_file(path):
        return [path]
    with one_line(f"data.source: {source}"):
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if is_file(Path(name)))
        if not found and path.exists():
            raise DataError(f"data.source: {source} is not a file that can be read to its end, such as a pipe or a device")
    if not found:
        raise DataError(f"data.source: no such file: {source}{suggestions(path)}")
    return found


def suggestions(path: Path) -> str:
    """What may have been meant: the most similar names in the folder, or the files there that can be read."""
    folder = path.parent
    if not is_folder(folder):
        return "" if glob.has_magic(str(folder)) else f"; there is no folder {folder}"
    there = sorted(other.name for other in folder.iterdir() if other.suffix.lower() in READERS)
    near = difflib.get_close_matches(path.name, there, n=3) or there[:5]
    return f" (in that folder: {', '.join(near)})" if near else f" (no file in {folder} can be read; valid: {', '.join(READERS)})"
