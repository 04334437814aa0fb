"""Streaming: sources are read block by block, for those that do not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv

from isolora.data.csv_rows import CSV_BLOCK_BYTES, CsvRows
from isolora.data.files import (
    TEXT_ENDINGS,
    json_rows,
    json_table,
    matching_files,
    one_line,
    parquet_file,
    plain_types,
    read_files,
    read_table,
)
from isolora.data.origins import LeftOut, own_columns, row_origins, with_origins
from isolora.data.sources import folder_of, means_files, open_hub, reason, split_files
from isolora.data.table_source import NO_CARD
from isolora.data_cards import Card, read_card
from isolora.errors import DataError
from isolora.json_types import JsonObject

BLOCK_ROWS = 2048


@dataclass(frozen=True)
class Streams:
    """As `Tables`, but each split is an iterator over tables of some rows."""

    parts: Mapping[str, Iterator[pa.Table]]
    card: Card = NO_CARD


def open_source(source: str, left_out: LeftOut) -> Streams:
    """The source's splits, each to be read once. Raises DataError as `sources.read` does, partly while blocks are read."""
    if folder := folder_of(source):
        return Streams({split: blocks(path, left_out) for split, path in split_files(folder).items()}, read_card(folder))
    if not means_files(source):
        card, found = open_hub(source, streaming=True)
        return Streams(
            {split: _hub_blocks(source, part, f"{source} {there} row") for split, (there, part) in found.items()}, card
        )
    paths = matching_files(source)
    if len(paths) == 1 and paths[0].suffix.lower() in TEXT_ENDINGS:  # a document a paragraph; a text fits in memory
        return Streams({"train": iter([read_files(source, left_out)])})
    return Streams({"train": chain.from_iterable(blocks(path, left_out) for path in paths)})


def blocks(path: Path, left_out: LeftOut) -> Iterator[pa.Table]:
    """The rows of one file, some at a time, with their origins. Raises DataError as `read_table` does."""
    read = {".parquet": _parquet, ".csv": _csv, ".tsv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines}
    if path.suffix.lower() not in read:
        yield read_table(path, left_out)
        return
    with one_line(path):
        yield from read[path.suffix.lower()](path, left_out)


def _parquet(path: Path, left_out: LeftOut) -> Iterator[pa.Table]:
    with path.open("rb") as file:
        batches = parquet_file(file, path, buffer_size=1 << 20).iter_batches(BLOCK_ROWS)
        yield from _with_row_numbers(map(pa.Table.from_batches, ([batch] for batch in batches)), f"{path} row")


def _csv(path: Path, left_out: LeftOut) -> Iterator[pa.Table]:
    rows = CsvRows(path, left_out)
    options = pc_csv.ReadOptions(use_threads=False, encoding="utf-8-sig", block_size=CSV_BLOCK_BYTES)
    try:
        with path.open("rb") as file:
            types = pc_csv.ConvertOptions(column_types=rows.types(file.read(CSV_BLOCK_BYTES)))
        for batch in pc_csv.open_csv(path, options, rows.options, types):
            table = rows.numbered(pa.Table.from_batches([batch]))
            _refuse_zero_bytes(table)
            yield table
    except UnicodeDecodeError as failure:
        raise DataError(f"{path}: not UTF-8 ({failure.reason}); save it as UTF-8") from None


def _refuse_zero_bytes(table: pa.Table) -> None:
    """As of a file that is read whole."""
    for name in own_columns(table).column_names:
        if pa.types.is_string(table[name].type) and pc.any(found := pc.match_substring(table[name], "\0")).as_py():
            raise DataError(f"{row_origins(table.filter(found))[0]}: a zero byte, which is no text; take it out")


def _json_lines(path: Path, left_out: LeftOut) -> Iterator[pa.Table]:
    rows, model = json_rows(path, left_out), JsonObject()
    while block := list(islice(rows, BLOCK_ROWS)):
        table = json_table(path, [(0, model), *block], left_out).slice(1)  # led by a row with all columns and types so far
        model = {
            name: next(iter(table[name].drop_null().slice(0, 1).to_pylist()), model.get(name))
            for name in own_columns(table).column_names
        }
        yield table


def _hub_blocks(source: str, part: Any, place: str) -> Iterator[pa.Table]:
    try:
        yield from _with_row_numbers(part.iter(batch_size=BLOCK_ROWS), place)
    except Exception as failure:  # as in `open_hub`, but on the way
        raise DataError(f"data.source: {source!r} {reason(failure)}") from None


def _with_row_numbers(tables: Iterator[pa.Table], place: str) -> Iterator[pa.Table]:
    first = 1
    for table in tables:
        yield with_origins(plain_types(table), place, range(first, first + table.num_rows))
        first += table.num_rows
