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
from isolora.data.table_source import SPLITS, columns_of_template

FOLDER = isolora.data.packaged_data()["debian-descriptions"]
ASSETS = FOLDER.parent
FOLDERS = [card.parent for card in sorted(ASSETS.rglob("data.json"))]
TEXTS, TAGS = pa.list_(pa.string()), pa.list_(pa.int64())
ANSWERS = pa.struct([("text", TEXTS), ("answer_start", pa.list_(pa.int32()))])
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
COLUMNS = {  # what a task asks for -> the types it may have
    "conversation": {"messages": [MESSAGES], "system": [pa.string()], "prompt": [pa.string()], "completion": [pa.string()]},
    "instruction": {"prompt": [pa.string()], "completion": [pa.string()]},
    "preference": {"prompt": [pa.string()], "chosen": [pa.string()], "rejected": [pa.string()]},
    "question-answering": {"id": [pa.string()], "question": [pa.string()], "context": [pa.string()], "answers": [ANSWERS]},
    "sequence-classification": {
        "text": [pa.string()],
        "text_pair": [pa.string()],
        "label": [pa.string(), pa.int64(), pa.float32()],
    },
    "summarization": {"document": [pa.string()], "summary": [pa.string()]},
    "token-classification": {"tokens": [TEXTS], "tags": [TEXTS, TAGS]},
}
MAKE = runpy.run_path(str(FOLDER / "make.py"))


@cache
def table(split: str) -> pa.Table:
    return pq.read_table(FOLDER / f"{split}.parquet")


def families(split: str) -> set[str]:
    """Source packages without version digits, as the README promises."""
    return {re.sub(r"[-.]?\d[\d.]*", "", source) for source in table(split)["source"].to_pylist()}


def card(folder: Path) -> dict:
    return json.loads((folder / "data.json").read_text(encoding="utf-8"))


def rows(name: str, split: str) -> list[dict]:
    return pq.read_table(ASSETS / name / f"{split}.parquet").to_pylist()


def features(name: str) -> dict:
    """Column -> what the hub's `datasets` writes about it into the file."""
    return json.loads(pq.read_schema(ASSETS / "hub-samples" / name / "train.parquet").metadata[b"huggingface"])["info"][
        "features"
    ]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_hashes_verify(folder: Path) -> None:
    sums = dict(line.split("  ")[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == {path.name for path in folder.glob("*.parquet")}
    assert {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sums} == sums


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_says_its_licence_its_text_and_its_columns(folder: Path) -> None:
    licence = next(path for path in (folder / "LICENCE.md", folder.parent / "LICENCE.md") if path.is_file())
    assert licence.stat().st_size > 200
    for path in folder.glob("*.parquet"):
        schema = pq.read_schema(path)
        assert set(columns_of_template(card(folder).get("text", ""))) <= set(schema.names)
        for task, columns in card(folder).get("columns", {}).items():
            for wanted, column in columns.items():
                assert schema.field(column).type in COLUMNS[task][wanted], (task, column)


def test_all_of_it_stays_small() -> None:
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) < 30e6


@pytest.mark.parametrize("name", ["debian-conversations", "debian-preferences", "debian-questions"])
def test_what_is_derived_keeps_its_sources_side(name: str) -> None:
    for split in SPLITS:
        assert {row["source"] for row in rows(name, split)} <= set(table(split)["source"].to_pylist())


@pytest.mark.parametrize("split", SPLITS)
def test_personal_data_lies_where_it_is_said_to(split: str) -> None:
    for row in rows("pii-synthetic", split):
        spans = row["privacy_mask"]
        assert all(row["source_text"][span["start"] : span["end"]] == span["value"] for span in spans)
        for tags in (row["tags"], row["mbert_bio_labels"]):
            assert [tag[2:] for tag in tags if tag.startswith("B-")] == [span["label"] for span in spans]
        assert len(row["tokens"]) == len(row["tags"])
        assert "".join(row["tokens"]) == "".join(row["source_text"].split())


def test_held_out_templates_are_new() -> None:
    train, validation, test = ({row["target_text"] for row in rows("pii-synthetic", split)} - {""} for split in SPLITS)
    assert not train & validation
    assert not train & test
    assert not validation & test


@pytest.mark.parametrize("name", ["debian-questions", "hub-samples/squad", "hub-samples/squad-v2"])
def test_answers_are_spans(name: str) -> None:
    asked = rows(name, "validation")
    for row in asked:
        spans = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
        assert all(row["context"][start:].startswith(text) for text, start in spans)
    assert len({row["id"] for row in asked}) == len(asked)


def test_samples_bear_the_labels_of_the_hub() -> None:
    assert features("glue-mnli")["label"]["names"] == ["entailment", "neutral", "contradiction"]
    assert features("glue-wnli")["label"]["names"] == ["not_entailment", "entailment"]
    assert features("glue-stsb")["label"]["dtype"] == "float32"
    fine = features("few-nerd")["fine_ner_tags"]["feature"]["names"]
    assert (len(fine), fine[0], fine[1], fine[66]) == (67, "O", "art-broadcastprogram", "product-weapon")
    assert {row["label"] for row in rows("hub-samples/glue-rte", "test")} == {-1}


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
