"""Local files as tables: Parquet, CSV, TSV, JSON Lines, text and Markdown; every failure is one line that names the file."""

from __future__ import annotations

import difflib
import glob
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq

from isolora.errors import DataError


def read_table(path: Path) -> pa.Table:
    """The rows of one file, read as its ending says; a text file is one row with the columns `text` and `file`."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: cannot read {path.suffix or 'a file without an ending'} (valid: {', '.join(READERS)})")
    try:
        return reader(path)
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
        line = raw.count(b"\n", 0, offset) + 1
        raise DataError(f"{path}: not UTF-8 at byte {offset} (line {line}); save it as UTF-8") from None


def _parquet(path: Path) -> pa.Table:
    # Opened by hand: given a path, pyarrow would take folder names such as `split=train` for columns.
    with path.open("rb") as file:
        return pq.read_table(file)


def _csv(path: Path) -> pa.Table:
    options = pc_csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",", newlines_in_values=True)
    data = decoded(path).encode()
    if not data.strip():
        raise DataError(f"{path}: empty file")
    # One thread, so that an error can say in which row it lies.
    return pc_csv.read_csv(pa.BufferReader(data), parse_options=options, read_options=pc_csv.ReadOptions(use_threads=False))


def _json_lines(path: Path) -> pa.Table:
    rows = [_json_row(path, number, line) for number, line in enumerate(decoded(path).split("\n"), 1) if line.strip()]
    names = dict.fromkeys(name for row in rows for name in row)
    try:
        return pa.table({name: [row.get(name) for row in rows] for name in names})
    except pa.ArrowTypeError as failure:
        raise DataError(f"{path}: a column holds values of several types ({first_line(failure)})") from None


def _json_row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as failure:
        raise DataError(f"{path}: line {number} is not JSON ({failure.msg}, column {failure.colno})") from None
    if not isinstance(row, dict):
        raise DataError(f'{path}: line {number} holds {type(row).__name__}, not an object like {{"text": ...}}')
    return row


def _text(path: Path) -> pa.Table:
    return pa.table({"text": [decoded(path).strip()], "file": [str(path)]})


READERS: dict[str, Callable[[Path], pa.Table]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _csv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".txt": _text,
    ".md": _text,
}
TEXT_ENDINGS = (".txt", ".md")


def read_files(source: str) -> pa.Table:
    """The rows of one file, or of all files of a glob.

    A glob's text files are a document each; a single one is cut at empty lines.
    """
    paths = matches(source)
    if len(paths) == 1 and paths[0].suffix.lower() in TEXT_ENDINGS:
        paragraphs = [part.strip() for part in re.split(r"\n[ \t]*\n", decoded(paths[0])) if part.strip()]
        return pa.table({"text": pa.array(paragraphs, pa.string())})
    try:
        return pa.concat_tables([read_table(path) for path in paths], promote_options="permissive")
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
