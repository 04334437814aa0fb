"""New texts under a saved classifier: the classes, tags and numbers that the adapter was scored by, as a person asks for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import headed
import numpy as np
import pytest
import tiny
import torch
from person import run

from isolora import adapters
from isolora.errors import ConfigError
from isolora.training import train

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
TOPICS = ("red", "green", "blue")


def texts(count: int = 60) -> list[dict[str, Any]]:
    """Half of the words say the class."""
    rng = np.random.default_rng(3)
    return [
        {"text": " ".join(f"w{7 + k % 3 if place % 2 == 0 else rng.integers(12, 60)}" for place in range(4 + 2 * (k % 3)))}
        | {"label": TOPICS[k % 3]}
        for k in range(count)
    ]


def tagged(count: int = 60) -> list[dict[str, Any]]:
    """w7 is a person, w8 goes on with it, w9 is a city; every fourth document is longer than a window."""
    tags = {"w7": "B-PER", "w8": "I-PER", "w9": "B-CITY"}
    drawn = np.random.default_rng(5)
    parts = (["w20"], ["w30"], ["w40"], ["w7", "w8"], ["w9"])
    documents = [[word for part in drawn.integers(5, size=60 if k % 4 == 0 else 5) for word in parts[part]] for k in range(count)]
    return [{"tokens": words, "tags": [tags.get(word, "O") for word in words]} for words in documents]


def trained(folder: Path, kind: str, task: dict[str, Any], rows: list[dict[str, Any]], **changes: Any) -> adapters.Adapter:
    config = headed.a_run(folder, kind, task, rows, **{"steps": 40, "learning_rate": 2e-2, **changes})
    train(config, folder / "out", quiet=True)
    return adapters.load(folder / "out")


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> adapters.Adapter:
    return trained(tmp_path_factory.mktemp("topics"), "bert_classifier", {"name": "sequence-classification"}, texts())


def held_out(adapter: adapters.Adapter) -> list[dict[str, Any]]:
    """The documents that the adapter was scored on."""
    from isolora.runs.document_loader import RunDocuments

    return list(RunDocuments.load(adapter.config).held_out.rows())


def test_held_out_texts_get_the_classes_that_were_scored(topics: adapters.Adapter) -> None:
    rows = held_out(topics)
    found = topics.classify([row["text"] for row in rows])
    right = np.mean([each["label"] == row["label"] for each, row in zip(found, rows, strict=True)])
    assert right == pytest.approx(topics.record["metrics"]["accuracy"])
    assert right > 0.5


def test_probabilities_are_the_softmax_of_the_heads_scores(topics: adapters.Adapter) -> None:
    """As plain transformers gives them for one text; in a batch with longer ones the same."""
    text = "w7 w20 w31"
    with torch.no_grad():
        scores = topics.attached.model(**topics.base.tokenizer(text, return_tensors="pt")).logits
    expected = dict(zip(topics.task.labels, scores.softmax(-1)[0].tolist(), strict=True))
    alone, crowded = topics.classify(text)[0], topics.classify([row["text"] for row in texts(7)] + [text])[-1]
    for found in (alone, crowded):
        assert found["probabilities"] == pytest.approx(expected, abs=1e-6)
        assert (found["label"], found["probability"]) == max(found["probabilities"].items(), key=lambda pair: pair[1])
        assert list(found["probabilities"].values()) == sorted(found["probabilities"].values(), reverse=True)


def test_what_does_not_fit_is_counted(topics: adapters.Adapter) -> None:
    """64 positions, of which [CLS] and [SEP] take two."""
    assert [each["cut"] for each in topics.classify(["w7 " * 62, "w7 " * 63, "w7 " * 100])] == [0, 1, 38]


@pytest.mark.parametrize("kind", ["gpt2", "bart"])
def test_other_heads_give_the_classes_that_were_scored(kind: str, tmp_path: Path) -> None:
    adapter = trained(tmp_path, kind, {"name": "sequence-classification"}, texts(), method={"rank": 4})
    rows = held_out(adapter)
    found = [each["label"] == row["label"] for each, row in zip(adapter.classify(rows), rows, strict=True)]
    assert np.mean(found) == pytest.approx(adapter.record["metrics"]["accuracy"])


def test_a_regression_gives_numbers_for_pairs(tmp_path: Path) -> None:
    rows = [{"text": f"w{10 + k}", "text_pair": f"w{50 - k}", "label": k / 40 + 0.01} for k in range(40)]
    task = {"name": "sequence-classification", "problem_type": "regression"}
    adapter = trained(tmp_path, "bert_classifier", task, rows)
    said = [
        each["value"] for each in adapter.classify([{"text": "w11", "text_pair": "w49"}, {"text": "w45", "text_pair": "w15"}])
    ]
    assert said[0] < said[1]
    with torch.no_grad():
        pair = adapter.base.tokenizer("w11", "w49", return_tensors="pt")
        assert said[0] == pytest.approx(float(adapter.attached.model(**pair).logits[0, 0]), abs=1e-6)


def test_words_get_the_tags_that_were_scored_long_texts_included(tmp_path: Path) -> None:
    adapter = trained(
        tmp_path, "bert_classifier", {"name": "token-classification"}, tagged(), steps=60, head_learning_rate_ratio=1
    )
    rows = held_out(adapter)
    found = adapter.classify([{"tokens": row["tokens"]} for row in rows])
    assert [len(each["tags"]) for each in found] == [len(row["tokens"]) for row in rows]
    assert max(len(row["tokens"]) for row in rows) > 64, "windows put together again"
    pairs = [(a, b) for each, row in zip(found, rows, strict=True) for a, b in zip(each["tags"], row["tags"], strict=True)]
    assert np.mean([a == b for a, b in pairs]) == pytest.approx(adapter.record["metrics"]["accuracy"])
    said = adapter.classify("w20 w7 w8, w9.")[0]
    assert said["words"] == ["w20", "w7", "w8", ",", "w9", "."]
    entities = [(each["type"], each["text"]) for each in said["entities"]]
    assert entities == [("PER", "w7 w8"), ("CITY", "w9")]
    assert said["entities"][0]["probability"] == pytest.approx(min(said["probabilities"][1:3]))


def test_the_command_reads_texts_and_files(
    topics: adapters.Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(monkeypatch, capsys, "classify", topics.folder, "w7 w20", "w8 w30")
    lines = [line.split("\t") for line in out.splitlines()]
    assert status == 0
    assert [(line[0], line[2]) for line in lines] == [("red", "w7 w20"), ("green", "w8 w30")]
    (tmp_path / "new.csv").write_text("id;text\n1;w7 w20\n2;" + "w8 " * 90 + "\n", encoding="utf-8")
    status, out, said = run(monkeypatch, capsys, "classify", topics.folder, "--file", tmp_path / "new.csv", "--json")
    found = json.loads(out)["texts"]
    assert [each["label"] for each in found] == ["red", "green"]
    assert found[0]["probability"] == pytest.approx(float(lines[0][1]), abs=1e-3)
    assert "1 of 2 texts are longer than the model reads" in said


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "classify: give texts or --file, one of the two; --pair goes with one text"),
        (["a", "--file", "b.csv"], "classify: give texts or --file, one of the two"),
        (["a", "b", "--pair", "c"], "--pair goes with one text"),
        (["w7", " "], "classify: text 2: text is empty"),
        (["--file", "absent.csv"], "absent.csv"),
        (["--file", "{}/other.csv"], "has no column 'text' for the task's 'text' (columns: body)"),
        (["--file", "{}/gap.csv"], "gap.csv row 3: text is empty"),
    ],
)
def test_mistakes_are_one_line(
    topics: adapters.Adapter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    line: str,
) -> None:
    (tmp_path / "other.csv").write_text("body\nw7\n", encoding="utf-8")
    (tmp_path / "gap.csv").write_text("text,id\nw7,1\n,2\n", encoding="utf-8")
    status, out, said = run(monkeypatch, capsys, "classify", topics.folder, *(word.format(tmp_path) for word in words))
    told = [each for each in said.splitlines() if each.startswith("isolora: ")]  # a bar of a library's may stand before
    assert (status, out, len(told)) == (2, "", 1)
    assert line in told[0]


def test_what_writes_texts_does_not_classify(tmp_path: Path) -> None:
    train(tiny.from_files(tmp_path, steps=2), tmp_path / "out", quiet=True)
    with pytest.raises(ConfigError, match="classify: an adapter of task causal-lm tells no classes apart; isolora generate"):
        adapters.load(tmp_path / "out").classify("w5")
