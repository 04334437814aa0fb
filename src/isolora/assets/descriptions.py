"""Rows of debian-descriptions, for the data sets that are derived from them split by split."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

SEED = 20261122
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"(])")


def shuffled(split: str, purpose: str) -> list[dict[str, Any]]:
    """The split's rows in an order of the purpose's own, always the same; splits share no source package."""
    rows: list[dict[str, Any]] = pq.read_table(Path(__file__).parent / "debian-descriptions" / f"{split}.parquet").to_pylist()
    random.Random(f"{SEED}:{purpose}:{split}").shuffle(rows)
    return rows


def chance(split: str, purpose: str) -> random.Random:
    """The stream of draws that belongs to one split of one data set."""
    return random.Random(f"{SEED}:{purpose}:{split}:draws")


def opening(text: str, most_words: int) -> str:
    """The first paragraphs and sentences that fit; the first sentence whatever its length."""
    kept = ""
    for piece in re.split(r"(\n+)", text):
        for sentence in SENTENCE_END.split(piece):
            longer = f"{kept}{sentence}" if not kept or kept.endswith("\n") or not sentence.strip() else f"{kept} {sentence}"
            if kept.strip() and len(longer.split()) > most_words:
                return kept.rstrip()
            kept = longer
    return kept.rstrip()
