"""The packaged data: intact, large enough, small enough, and honest about what is held out."""

from __future__ import annotations

import hashlib
import json
import re
import runpy
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import isolora.data
from isolora.data.tables import SPLITS, columns_of

FOLDER = isolora.data.packaged()["debian-descriptions"]
MAKE = runpy.run_path(str(FOLDER / "make.py"))


@cache
def table(split: str) -> pa.Table:
    return pq.read_table(FOLDER / f"{split}.parquet")


def families(split: str) -> set[str]:
    """Source packages without version digits, as the README promises."""
    return {re.sub(r"[-.]?\d[\d.]*", "", source) for source in table(split)["source"].to_pylist()}


@pytest.mark.parametrize("folder", isolora.data.packaged().values(), ids=isolora.data.packaged().keys())
def test_hashes_verify(folder: Path) -> None:
    sums = dict(line.split("  ")[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == {path.name for path in folder.glob("*.parquet")}
    assert {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sums} == sums


@pytest.mark.parametrize("folder", isolora.data.packaged().values(), ids=isolora.data.packaged().keys())
def test_says_its_licence_and_its_text(folder: Path) -> None:
    assert (folder / "LICENCE.md").stat().st_size > 200
    columns = columns_of(json.loads((folder / "data.json").read_text())["text"])
    assert set(columns) <= set(pq.read_schema(folder / "train.parquet").names)


def test_sizes() -> None:
    assert table("train").num_rows >= 20_000
    assert 1_300 <= table("validation").num_rows <= 1_700
    assert 1_300 <= table("test").num_rows <= 1_700
    assert sum((FOLDER / f"{split}.parquet").stat().st_size for split in SPLITS) <= 8e6


def test_splits_share_no_source_family() -> None:
    train, validation, test = map(families, SPLITS)
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_texts_are_clean_and_distinct() -> None:
    texts = [text for split in SPLITS for text in table(split)["description"].to_pylist()]
    assert len(set(texts)) == len(texts)
    assert all(20 <= len(text.split()) <= 1000 for text in texts)
    assert not any(re.search(r"\n \.|\n\n\n|[ \t]\n|  |[\x00-\x09\x0b-\x1f\x7f]", text) for text in texts)


def test_held_out_texts_are_mostly_new() -> None:
    """Median share of five-word runs of a validation text that some training text has: boilerplate, not leakage."""
    shingles = MAKE["shingles"]
    seen = set().union(*(shingles(text) for text in table("train")["description"].to_pylist()))
    shares = sorted(len(own & seen) / len(own) for own in map(shingles, table("validation")["description"].to_pylist()))
    assert shares[-1] < 0.5
    assert shares[len(shares) // 2] < 0.15


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (" Broken\n by the\n terminal.\n .\n Next.", "Broken by the terminal.\n\nNext."),
        (" List:\n  * one\n    and a half\n  * two\n After it.", "List:\n- one and a half\n- two\nAfter it."),
        (" * level\n items\n * too", "- level items\n- too"),
        (" Steps:\n  1. first\n  2) second", "Steps:\n1. first\n2) second"),
        (" See\n  https://example.org/a*b\n for more.", "See\nhttps://example.org/a*b\nfor more."),
        ("  o round\n  + plus\t tab", "- round\n- plus tab"),
        (" A - b is no item,\n -v is none either.", "A - b is no item, -v is none either."),
        (" .\n .\n Late.", "Late."),
    ],
)
def test_cleaning(raw: str, text: str) -> None:
    assert MAKE["clean"](raw) == text
