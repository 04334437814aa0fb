"""Rows drawn from a stream: those with the smallest seeded hashes (bottom-k sampling, Cohen and Kaplan 2007).

What is drawn does not depend on the order of the rows, smaller draws are subsets of larger ones, and only what is drawn is held.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heappush, heapreplace
from typing import Any

import pyarrow as pa

from isolora.data.origins import file_of, own_columns
from isolora.data.splits import HELD_OUT_SHARE, hash_of
from isolora.data.table_source import SPLITS
from isolora.errors import DataError, in_brief
from isolora.json_types import JsonObject

HASHES = 2**64


class Reservoir:
    """Keeps the `size` rows with the smallest keys. Equal rows have equal keys; which of them is kept makes no difference."""

    def __init__(self, size: int) -> None:
        self.size, self.seen = size, 0
        self._held: list[tuple[int, int, JsonObject]] = []

    def add(self, key: int, row: JsonObject) -> None:
        self.seen += 1
        entry = (-key, self.seen, row)
        if len(self._held) < self.size:
            heappush(self._held, entry)
        elif entry[0] > self._held[0][0]:
            heapreplace(self._held, entry)

    def table(self, schema: pa.Schema) -> pa.Table:
        """The rows held, in the order of their keys."""
        return pa.Table.from_pylist([row for _, _, row in sorted(self._held, key=lambda entry: (-entry[0], entry[1]))], schema)


def draw_streams(
    parts: Mapping[str, Iterable[pa.Table]], counts: Mapping[str, int], seed: int, together: Sequence[str]
) -> dict[str, pa.Table]:
    """Draw `counts` rows of train, validation and test; a held-out split that the source lacks is cut from train.

    together: columns whose equal values stay in one split; without any, all of them. Raises DataError for blocks that do not
    match.
    """
    missing = [split for split in SPLITS[1:] if split not in parts]
    drawn = {split: Reservoir(counts[split]) for split in SPLITS}
    schemas: dict[str, pa.Schema] = {}
    for split, blocks in parts.items():
        for block in blocks:
            schemas[split] = _joined(schemas.get(split, block.schema), block)
            own = own_columns(block)
            sides = _splits_of(own.select(together) if together else own, split, missing)
            for side, values, row in zip(sides, _values(own), block.to_pylist(), strict=True):
                drawn[side].add(hash_of(values, f"{seed}:{side}"), row)
    return {split: kept.table(schemas.get(split, schemas["train"])) for split, kept in drawn.items()}


def _splits_of(table: pa.Table, split: str, missing: Sequence[str]) -> list[str]:
    """The split of each row: a tenth of train goes to each held-out split that is missing, by a hash without a seed."""
    if split != "train":
        return [split] * table.num_rows
    shares = (int(hash_of(values) / HASHES / HELD_OUT_SHARE) for values in _values(table))
    return [missing[share] if share < len(missing) else split for share in shares]


def _values(table: pa.Table) -> Iterable[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in table.columns), strict=True)


def _joined(schema: pa.Schema, block: pa.Table) -> pa.Schema:
    if block.schema.equals(schema):
        return schema
    try:
        return pa.unify_schemas([schema, block.schema], promote_options="permissive")
    except pa.ArrowTypeError as failure:
        raise DataError(f"{file_of(block)}: columns unlike those before ({in_brief(failure)})") from None
