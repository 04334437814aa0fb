"""Inputs that once ended in a traceback, a hang or a wrong run, most found by `make bench-fuzz`; and a few fuzzed cases."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import bench_fuzz
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import yaml

from isolora import data, registry
from isolora.config import DataConfig, RunConfig, load_run, parse, with_word
from isolora.data import make_examples
from isolora.errors import ConfigError, DataError, UserError

CONFIGURATIONS = [
    "data: &a [*a]",
    "seed: 2020-13-45",
    "seed: !!int x",
    "!!map [a]",
    "[" * 2000,
    "seed: 18446744073709551616",
    "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b]\n"
    "d: &d [*c, *c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d, *d, *d]\ndata: {columns: {x: *e}}",
    "task: {name: instruction, template: " + "x" * 5000 + "}",
    "task: {name: conversation, template: ~nobody-of-that-name}",
    "data: {source: !!binary x}",
]


@pytest.mark.parametrize("text", CONFIGURATIONS)
def test_configurations(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_run(tmp_path / "run.yaml")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 6000


def test_words() -> None:
    for word in ("seed=" + "[" * 3000, "seed=!!float x", "data=&a {b: *a}", "seed=" + "9" * 5000, "data..seed=1"):
        with pytest.raises(ConfigError):
            parse(RunConfig, with_word({}, word))


def read(source: Any, task: str, settings: dict[str, Any], max_length: int, **fields: Any) -> None:
    """A source as examples, both parts, as a run makes them."""
    plain = registry.load("task", task)
    unbound = plain.bound(plain.Settings(**settings))
    config = parse(DataConfig, {"source": str(source), **fields})
    splits, tokenizer = data.load(config, unbound), tiny.tokenizer(eos_token="w60")
    bound = unbound.bound(unbound.settings, unbound.find_labels(splits.train))
    for part in (splits.train, splits.validation):
        make_examples(
            bound, part, lambda some: bound.examples(some, tokenizer, max_length), max_length, config.on_error == "skip"
        )


LABELLED = [{"text": f"w{number}", "label": "ab"[number % 2]} for number in range(30)]


def test_a_column_of_an_internal_name(tmp_path: Path) -> None:
    for name in ("isolora:row", "isolora:place"):
        path = tiny.json_lines(tmp_path / "a.jsonl", [{**row, name: 1} for row in LABELLED])
        with pytest.raises(DataError, match=f"^{path}: {name} is a name of isolora's own; rename the column$"):
            read(path, "sequence-classification", {}, 16)


def test_text_labels_in_a_regression(tmp_path: Path) -> None:
    path = tiny.json_lines(tmp_path / "a.jsonl", LABELLED)
    for settings in ({"glue": "stsb"}, {"problem_type": "regression"}):
        with pytest.raises(DataError, match=r"a\.jsonl line \d+: label '[ab]' is no number to learn$"):
            read(path, "sequence-classification", settings, 16)


def test_held_out_labels_of_another_kind(tmp_path: Path) -> None:
    tiny.json_lines(tmp_path / "train.jsonl", [{"text": f"w{number}", "label": number / 7} for number in range(30)])
    tiny.json_lines(tmp_path / "validation.jsonl", LABELLED)
    with pytest.raises(DataError, match=r"validation\.jsonl line \d+: label '[ab]' is no number, as those of training are$"):
        read(tmp_path, "sequence-classification", {"problem_type": None}, 16)


def test_an_infinite_start_of_an_answer(tmp_path: Path) -> None:
    answers = {"text": ["w6"], "answer_start": [float("inf")]}
    path = tiny.json_lines(
        tmp_path / "a.jsonl", [{"question": f"w{number}", "context": "w6", "answers": answers} for number in range(30)]
    )
    with pytest.raises(DataError, match="answer_start inf of 'w6' is no place in the context"):
        read(path, "question-answering", {}, 16)


def test_bytes_as_labels(tmp_path: Path) -> None:
    labels = pa.array([row["label"] for row in LABELLED]).cast(pa.binary())
    pq.write_table(pa.table({"text": [row["text"] for row in LABELLED], "label": labels}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="label holds bytes; a row has one label"):
        read(tmp_path / "a.parquet", "sequence-classification", {}, 16)


def test_a_yaml_of_values_that_are_no_keys() -> None:
    with pytest.raises(UserError):
        parse(RunConfig, yaml.safe_load("{1: 2, null: 3}"))


@pytest.mark.parametrize("part", bench_fuzz.parts())
def test_the_fuzzer_itself(part: str) -> None:
    """Forty cases of every part; `make bench-fuzz` runs 10,000."""
    attempt = bench_fuzz.parts()[part]
    found = {number: bench_fuzz.outcome(attempt, part, number, 20) for number in range(40)}
    assert {number: how for number, how in found.items() if how not in ("accepted", "refused")} == {}
    assert "accepted" in found.values()


def test_a_failure_is_told_with_its_place(tmp_path: Path) -> None:
    def fails(random: Random, folder: Path) -> None:
        with_word({}, 3)  # type: ignore[arg-type]

    assert (
        bench_fuzz.outcome(fails, "x", 0, 20)
        == "AttributeError: 'int' object has no attribute 'partition' (overrides.py:16 with_word)"
    )

    def hangs(random: Random, folder: Path) -> None:
        while True:
            pass

    assert bench_fuzz.outcome(hangs, "x", 0, 1).startswith("too slow")
