"""Data sets by name: cards that read a packaged sample and the hub's own set alike, task by task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tiny
from person import run
from test_data_load import refusal
from transformers import PreTrainedTokenizerFast

from isolora import data, models, registry
from isolora.config import DataConfig, RunConfig, TaskConfig, parse
from isolora.data_cards import Card, card_of, hub_cards, packaged_data, read_card
from isolora.errors import DataError
from isolora.tasks.base import Task

SAMPLES = {name: card_of(name) for name in packaged_data() if name.startswith("sample-")}
PRESETS = [(name, task) for name, card in SAMPLES.items() for task in card.columns]
MISSION = {
    "DFKI-SLT/few-nerd",
    "ai4privacy/pii-masking-200k",
    "abisee/cnn_dailymail:3.0.0",
    "EdinburghNLP/xsum",
    "Open-Orca/OpenOrca",
    "rajpurkar/squad",
    "rajpurkar/squad_v2",
    *(f"nyu-mll/glue:{task}" for task in ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")),
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The hub with our samples in place of its sets; what was asked of it."""
    import datasets

    asked: list[tuple[Any, ...]] = []
    folders = {card.hub[0]: packaged_data()[name] for name, card in SAMPLES.items()}

    def load_dataset(name: str, configuration: str | None) -> Any:
        asked.append((name, configuration))
        files = folders[f"{name}:{configuration}" if configuration else name].glob("*.parquet")
        tables = {path.stem: datasets.table.InMemoryTable(pq.read_table(path)) for path in files}
        return datasets.DatasetDict({split: datasets.Dataset(table) for split, table in tables.items()})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return models.load_tokenizer(RunConfig(model="nano-55k"))


def read(source: str, task: Any, **fields: Any) -> tuple[Task, data.Splits]:
    """The task as a run on this source has it, with its classes, and the documents."""
    config = parse(RunConfig, {"task": task, "data": {"source": source, "eval_examples": 1000, **fields}})
    plain = registry.load_plug_in("task", config.task.name)
    unbound = plain.bound(plain.Settings(**config.task.fields()))
    splits = data.load_documents(config.data, unbound)
    return unbound.bound(unbound.settings, unbound.find_labels(splits.train)), splits


def test_the_missions_sets_are_known() -> None:
    assert not MISSION - hub_cards().keys()


@pytest.mark.parametrize(("name", "task"), PRESETS)
def test_hub_and_sample_are_read_alike(name: str, task: str, hub: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    bound, splits = read(SAMPLES[name].hub[-1], task)
    same, sample = read(name, task)
    assert hub == [(*SAMPLES[name].hub[0].split(":"), None)[:2]]
    assert (bound.labels, bound.settings) == (same.labels, same.settings)
    for part, other in ((splits.train, sample.train), (splits.validation, sample.validation), (splits.test, sample.test)):
        assert part.fingerprint == other.fingerprint
        examples = bound.examples(part, tokenizer, 256)
        assert len(examples) >= len(part) > 0
        assert set(examples.label_counts > 0) == {True}


def test_classes_have_the_hubs_names(hub: Any) -> None:
    assert read("glue:cola", "sequence-classification")[0].labels == ("unacceptable", "acceptable")
    assert read("glue:stsb", "sequence-classification")[0].labels == ()
    assert read("few-nerd", "token-classification")[0].labels[:3] == ("O", "I-art", "I-building")
    assert {"B-FIRSTNAME", "I-FIRSTNAME"} < set(read("pii-masking-200k", "token-classification")[0].labels)


def test_labels_that_the_hub_keeps_to_itself_are_not_used() -> None:
    _, splits = read("sample-glue-rte", "sequence-classification")
    assert {label for part in (splits.train, splits.validation, splits.test) for label in part.fields["label"]} == {0, 1}
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [360, 100, 40]


def test_both_sets_of_mnli() -> None:
    _, splits = read("sample-glue-mnli", "sequence-classification")
    folder = packaged_data()["sample-glue-mnli"]
    for part, name in ((splits.validation, "validation_matched"), (splits.test, "validation_mismatched")):
        assert set(part.fields["text"]) == set(pq.read_table(folder / f"{name}.parquet")["premise"].to_pylist())


def test_a_paragraphs_questions_share_a_side() -> None:
    _, splits = read("sample-squad", "question-answering")
    assert set(splits.test.fields["title"])
    assert not set(splits.test.fields["title"]) & set(splits.train.fields["title"])


def test_only_the_sections_that_the_card_names() -> None:
    task, _ = read("debian-descriptions", "sequence-classification", train_examples=15_000)
    assert len(task.labels) == 33
    assert set(task.labels) == set(card_of("debian-descriptions").keep["sequence-classification"]["section"])


def test_a_column_that_the_task_does_not_read_keeps_no_rows(tmp_path: Path) -> None:
    rows = [{"text": f"row {n}", "kind": "abc"[n % 3], "size": "ml"[n % 2]} for n in range(60)]
    tiny.json_lines(tmp_path / "train.jsonl", rows)
    card = {"columns": {"sequence-classification": {"label": "kind"}}, "keep": {"sequence-classification": {"kind": ["a", "b"]}}}
    (tmp_path / "data.json").write_text(json.dumps(card))
    assert set(read(str(tmp_path), "sequence-classification")[1].train.fields["kind"]) == {"a", "b"}
    _, other = read(str(tmp_path), "sequence-classification", columns={"label": "size"})
    assert set(other.train.fields["kind"]) == {"a", "b", "c"}
    assert set(data.load_documents(DataConfig(source=str(tmp_path))).train.fields["kind"]) == {"a", "b", "c"}, "another task"


def test_a_card_sets_what_the_task_needs() -> None:
    def task(source: str, given: Any) -> TaskConfig:
        return parse(RunConfig, {"task": given, "data": {"source": source}}).task

    assert task("few-nerd", "token-classification").fields()["scheme"] == "io"
    assert task("sample-glue-mrpc", {"name": "sequence-classification"}).fields()["glue"] == "mrpc"
    assert task("sample-glue-mrpc", {"name": "sequence-classification", "glue": None}).fields()["glue"] is None
    assert task("pii-synthetic", "token-classification").fields()["scheme"] == "bio"
    with pytest.raises(DataError, match=r"tag 'art' is not BIO \(.*for bare types set task\.scheme=io\)"):
        read("sample-few-nerd", {"name": "token-classification", "scheme": "bio"})


def test_a_set_that_is_not_fetched_is_said_in_one_line() -> None:
    for source in ("squad", "nyu-mll/glue:cola"):
        assert f"data.source: {source!r} is no packaged name and no local file, and the hub cannot be reached" in refusal(source)


def test_a_card_with_a_slip_is_one_line(tmp_path: Path) -> None:
    assert read_card(tmp_path) == Card()
    for said, expected in (
        ('{"colums": {}}', "colums: Extra inputs are not permitted (valid keys: description, hub"),
        ('{"text": 3}', "text: Input should be a valid string"),
        ("{", "the file: Invalid JSON"),
    ):
        (tmp_path / "data.json").write_text(said)
        with pytest.raises(DataError) as caught:
            read_card(tmp_path)
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_card_of_other_columns_is_one_line(tmp_path: Path) -> None:
    tiny.json_lines(tmp_path / "train.jsonl", ({"words": f"w{n}"} for n in range(9)))
    for card in ({"text": "{word}"}, {"apart": "word"}, {"keep": {"causal-lm": {"word": ["a"]}}}):
        (tmp_path / "data.json").write_text(json.dumps(card))
        assert "its data.json names a column 'word' that is not there (columns: words)" in refusal(tmp_path)


def test_the_command_line_lists_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _, printed, _ = run(monkeypatch, capsys, "list", "data")
    lines = dict(line.split(maxsplit=1) for line in printed.splitlines())
    assert lines.keys() == packaged_data().keys()
    assert lines["sample-xsum"].endswith("(as EdinburghNLP/xsum)")
