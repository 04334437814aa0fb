"""Splitting and drawing by seed: held-out rows never move into training, and smaller draws are subsets of larger ones."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from isolora.data.origins import own_columns
from isolora.data.table_source import SPLITS
from isolora.errors import DataError

HELD_OUT_SHARE = 0.1  # of a source without splits, for validation and again for test
SPLIT_SEED = 20261122  # not the run's: another seed draws other examples, but never trains on what was held out


def with_held_out(parts: dict[str, pa.Table], together: Sequence[str]) -> dict[str, pa.Table]:
    """Train, validation and test; a held-out split that the source lacks is cut from train.

    together: columns whose equal values stay in one split; without any, all of them. Raises DataError for too few rows.
    """
    missing = [split for split in SPLITS[1:] if split not in parts]
    if not missing:
        return parts
    train = parts["train"]
    order, kinds = hash_order(train, together)
    if kinds <= len(missing):
        raise DataError(f"data: {kinds} distinct examples are too few to hold some out; give {len(missing) + 1} or more")
    size = max(1, int(HELD_OUT_SHARE * kinds))
    held = {split: (order >= i * size) & (order < (i + 1) * size) for i, split in enumerate(missing)}
    kept = order >= len(missing) * size
    held_out = {split: train.filter(pa.array(mask)) for split, mask in held.items()}
    return {**parts, **held_out, "train": train.filter(pa.array(kept))}


def hash_order(table: pa.Table, together: Sequence[str]) -> tuple[NDArray[np.int64], int]:
    """(rank [rows] of each row's hash among the distinct hashes, how many of those there are): equal rows share a split."""
    named = table.select(together) if together else own_columns(table)
    hashes = [hash_of(values) for values in zip(*(column.to_pylist() for column in named.columns), strict=True)]
    distinct, places = np.unique(np.array(hashes, dtype=np.uint64), return_inverse=True)
    return places.astype(np.int64), len(distinct)


def hash_of(values: Sequence[object], salt: object = SPLIT_SEED) -> int:
    """A 64-bit hash of the values."""
    text = "\x1f".join(str(value) for value in values)
    return int.from_bytes(hashlib.sha256(f"{salt}:{text}".encode(errors="surrogatepass")).digest()[:8], "big")


def draw(table: pa.Table, count: int, seed: int, split: str) -> pa.Table:
    """The first `count` rows of the split's seeded permutation."""
    order = np.random.default_rng([seed, zlib.crc32(split.encode())]).permutation(table.num_rows)
    return table.take(pa.array(order[:count]))
