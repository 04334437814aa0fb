"""Make the hub samples: a few hundred rows each in the schemas of the data sets that isolora knows from the Hugging Face hub.

    python make.py

Which set a sample stands for and how tasks read it is said by the hand-written `data.json` beside its files.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import glue
import pyarrow.parquet as pq
import texts
from datasets import ClassLabel, Features, List, Value
from entities import COARSE, FINE, few_nerd

from isolora.assets.publish import write_parts
from isolora.data_cards import read_card

HERE = Path(__file__).parent
SEED = 20261122
SIZES = {"train": 400, "validation": 100, "test": 100}
TEXT, ANSWERS = Value("string"), {"text": List(Value("string")), "answer_start": List(Value("int32"))}
Row = dict[str, Any]
Draw = Callable[[random.Random], Row]


@dataclass(frozen=True)
class Sample:
    """A data set of the hub in small: its columns in their order, and what draws a row of each split."""

    features: Features
    splits: Mapping[str, Draw]


def three(draw: Draw) -> dict[str, Draw]:
    return dict.fromkeys(SIZES, draw)


def without_label(draw: Draw) -> Draw:
    """GLUE keeps the labels of its test splits to itself: they are -1."""
    return lambda chance: {**draw(chance), "label": -1}


def glue_sample(task: str) -> Sample:
    draw, names = glue.TASKS[task], glue.LABELS[task]
    columns = [name for name in draw(random.Random(0)) if name != "label"]
    label = ClassLabel(names=list(names)) if names else Value("float32")
    splits = {"train": draw, "validation": draw, "test": without_label(draw)}
    if task == "mnli":
        matched, mismatched = draw, glue.mnli_mismatched
        splits = {"train": draw, "validation_matched": matched, "validation_mismatched": mismatched} | {
            "test_matched": without_label(matched),
            "test_mismatched": without_label(mismatched),
        }
    return Sample(Features({**dict.fromkeys(columns, TEXT), "label": label, "idx": Value("int32")}), splits)


def squad_sample(draw: Draw) -> Sample:
    """Without a test split, as on the hub; validation has the answers of several annotators."""
    columns = ("id", "title", "context", "question")
    return Sample(
        Features({**dict.fromkeys(columns, TEXT), "answers": ANSWERS}),
        {"train": draw, "validation": lambda chance: texts.several_answers(draw(chance))},
    )


def invented_person(draw: random.Random) -> Row:
    """A row of the packaged `pii-synthetic`, without the columns that the hub's set lacks."""
    rows = personal_data()
    return dict(rows[draw.randrange(len(rows))])


@cache
def personal_data() -> list[Row]:
    table = pq.read_table(HERE.parent / "pii-synthetic" / "train.parquet")
    return list(table.select(list(SAMPLES["pii-masking"].features)).to_pylist())


SAMPLES = {
    "few-nerd": Sample(
        Features(
            {
                "id": TEXT,
                "tokens": List(TEXT),
                "ner_tags": List(ClassLabel(names=list(COARSE))),
                "fine_ner_tags": List(ClassLabel(names=list(FINE))),
            }
        ),
        three(few_nerd),
    ),
    "cnn-dailymail": Sample(Features(dict.fromkeys(("article", "highlights", "id"), TEXT)), three(texts.cnn_dailymail)),
    "xsum": Sample(Features(dict.fromkeys(("document", "summary", "id"), TEXT)), three(texts.xsum)),
    "openorca": Sample(Features(dict.fromkeys(("id", "system_prompt", "question", "response"), TEXT)), {"train": texts.openorca}),
    "squad": squad_sample(texts.squad),
    "squad-v2": squad_sample(texts.squad_v2),
    "pii-masking": Sample(
        Features(
            {
                **dict.fromkeys(("source_text", "target_text"), TEXT),
                "privacy_mask": List({"value": TEXT, "start": Value("int64"), "end": Value("int64"), "label": TEXT}),
                "span_labels": TEXT,
                **dict.fromkeys(("mbert_text_tokens", "mbert_bio_labels"), List(TEXT)),
                "id": Value("int64"),
                **dict.fromkeys(("language", "set"), TEXT),
            }
        ),
        {"train": invented_person},
    ),
    **{f"glue-{task}": glue_sample(task) for task in glue.TASKS},
}


def identified(row: Row, features: Features, number: int, key: str) -> Row:
    """With the hub's `idx` (a count) or `id` (a hash, or a count where the hub has one)."""
    if "idx" in features:
        return {**row, "idx": number}
    if features["id"] == Value("int64"):
        return row
    return {"id": str(number) if "tokens" in features else hashlib.sha256(key.encode()).hexdigest()[:24], **row}


def rows(name: str, sample: Sample) -> dict[str, list[Row]]:
    """Rows of every split; none occurs twice, on one side or on two."""
    seen: set[str] = set()
    return {split: list(distinct(name, split, draw, sample.features, seen)) for split, draw in sample.splits.items()}


def distinct(name: str, split: str, draw: Draw, features: Features, seen: set[str]) -> Iterator[Row]:
    chance = random.Random(f"{SEED}:{name}:{split}")
    for number in range(SIZES[split.partition("_")[0]]):
        while (key := said(row := draw(chance))) in seen:
            continue
        seen.add(key)
        yield identified(row, features, number, key)


def said(row: Row) -> str:
    """What makes two rows the same: all but the label."""
    return json.dumps([value for column, value in row.items() if column not in ("label", "title")])


def main() -> None:
    table = []
    for name, sample in SAMPLES.items():
        folder = HERE / name
        parts = rows(name, sample)
        write_parts(folder, parts, sample.features.arrow_schema)
        counts = ", ".join(f"{split} {len(part)}" for split, part in parts.items())
        table.append(f"| `{name}` | `{read_card(folder).hub[0]}` | {', '.join(sample.features)} | {counts} |")
    template = (HERE / "README.template.md").read_text(encoding="utf-8")
    (HERE / "README.md").write_text(template.replace("$samples", "\n".join(table)), encoding="utf-8")


if __name__ == "__main__":
    main()
