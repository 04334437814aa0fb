"""Token classification: which token is asked for which word, and the life of the task on every architecture that has the head."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import headed
import numpy as np
import pyarrow as pa
import pytest
import tiny
import torch
from transformers import BertConfig, LlamaConfig

from isolora.config import RunConfig
from isolora.data import Documents
from isolora.errors import ConfigError, DataError
from isolora.tasks.base import IGNORED
from isolora.tasks.class_heads import answer_windows, inputs, scored_parts
from isolora.tasks.token_classification import TokenClassification, TokenClassificationSettings, whole_words
from isolora.training import train

torch.set_num_threads(1)
KINDS = (*headed.ENCODERS, *headed.DECODERS, "t5")
TAGS = ("O", "B-X", "I-X")
BERT, LLAMA = BertConfig(), LlamaConfig()
VOCABULARY = ("undoing", "w10", "w20", "w30", "w40", "w50", "w15", "w25", "w35")


def rows(count: int = 60) -> list[dict[str, Any]]:
    """Of eight words and one of three pieces, the last four are an entity's; those in a row are one."""
    drawn = np.random.default_rng(0)
    return [tagged([VOCABULARY[number] for number in drawn.integers(9, size=5 + row % 8)]) for row in range(count)]


def tagged(words: list[str]) -> dict[str, Any]:
    inside = [word in VOCABULARY[5:] for word in words]
    tags = [("I-X" if before else "B-X") if here else "O" for before, here in zip([False, *inside], inside, strict=False)]
    return {"tokens": words, "tags": tags}


def a_run(folder: Path, kind: str, **changes: Any) -> RunConfig:
    return headed.a_run(folder, kind, {"name": "token-classification"}, rows(), **changes)


def task(classes: tuple[str, ...] = TAGS, architecture: Any = BERT, **settings: Any) -> TokenClassification:
    return TokenClassification(TokenClassificationSettings(**settings), classes, architecture)


def documents(*rows: tuple[list[str], list[Any]]) -> Any:
    return tiny.documents([{"tokens": tokens, "tags": tags} for tokens, tags in rows])


def test_label_at_the_first_piece_of_each_word() -> None:
    made = task().examples(documents((["w7", "undoing", "w8"], ["B-X", "I-X", "O"])), headed.tokenizer(), 16)
    assert made.ids.tolist() == [2, 7, 4, 5, 6, 8, 3]
    assert made.labels.tolist() == [IGNORED, 1, 2, IGNORED, IGNORED, 0, IGNORED]


def test_a_decoder_is_asked_at_the_last_piece_where_it_has_seen_the_word() -> None:
    words = documents((["w7", "undoing", "w8"], ["B-X", "I-X", "O"]))
    made = task(architecture=LLAMA).examples(words, headed.tokenizer(framed=False), 16)
    assert made.ids.tolist() == [7, 4, 5, 6, 8]
    assert made.labels.tolist() == [1, IGNORED, IGNORED, 2, 0]


def test_a_word_without_a_token_is_an_unknown_one() -> None:
    made = task().examples(documents((["w7", " ", "w8"], ["O", "B-X", "I-X"])), headed.tokenizer(framed=False), 16)
    assert made.ids.tolist() == [7, 1, 8]
    assert made.labels.tolist() == [0, 1, 2]


def test_long_documents_become_windows_that_ask_for_each_word_once() -> None:
    """Room for 4 of 9 tokens, of which 2 are seen again: the middle of what two windows share parts them."""
    words = [f"w{number}" for number in range(10, 19)]
    long, short = (words, ["O"] * 9), (["w8"], ["B-X"])
    made = task(overlap=0.5).examples(documents(long, short), headed.tokenizer(), 6)
    assert [made.ids[a:b].tolist()[1:-1] for a, b in pairwise(made.starts)] == [
        *([10, 11, 12, 13], [12, 13, 14, 15], [14, 15, 16, 17], [16, 17, 18]),
        [8],
    ]
    asked = [(made.labels[a:b] != IGNORED).tolist()[1:-1] for a, b in pairwise(made.starts)]
    assert asked == [[1, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 1, 1], [1]]
    assert made.documents is not None
    assert made.documents.tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 30, 41])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.9])
def test_windows_cover_and_seams_part(tokens: int, overlap: float) -> None:
    cut = answer_windows(tokens, 8, overlap)
    assert {place for start, stop in cut for place in range(start, stop)} == set(range(tokens))
    assert all(stop - start == 8 for start, stop in cut[:-1])
    owned = [place for first, last in scored_parts(cut) for place in range(first, last)]
    assert owned == list(range(tokens))
    assert all(start <= first and last <= stop for (start, stop), (first, last) in zip(cut, scored_parts(cut), strict=True))


def test_no_room_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"data\.max_length: leaves no room"):
        task().examples(documents((["w7"], ["O"])), headed.tokenizer(), 2)


def test_pieces_of_words_join() -> None:
    assert whole_words(["Jo", "##hn", "##s", "ran", "##"], ["B", "I", "I", "O", "O"]) == (["Johns", "ran", "##"], ["B", "O", "O"])


def test_classes_are_both_tags_of_each_type() -> None:
    assert task(()).find_labels(documents((["w7", "w8"], ["I-Z", "O"]), (["w7"], ["B-A"]))) == ["O", "B-A", "I-A", "B-Z", "I-Z"]
    assert task((), scheme="io").find_labels(documents((["w7", "w8"], ["Z-q", "O"]))) == ["O", "I-Z-q"]


def test_equal_neighbours_without_prefixes_are_one_entity() -> None:
    bound = task(("O", "I-X", "I-Y"), scheme="io")
    made = bound.examples(documents((["w7", "w8", "w9"], ["X", "X", "Y"])), headed.tokenizer(framed=False), 16)
    assert made.labels.tolist() == [1, 1, 2]
    scores = bound.predictions(Fixed([1, 1, 1], 3), made, None, None, lambda: one_batch(made)).measures()
    assert (scores["precision"], scores["recall"]) == (0, 0)
    assert bound.predictions(Fixed([1, 1, 2], 3), made, None, None, lambda: one_batch(made)).measures()["f1"] == 1


class Fixed:
    """A model that predicts these classes, whatever it is given."""

    def __init__(self, classes: list[int], count: int) -> None:
        self.logits = torch.nn.functional.one_hot(torch.tensor([classes]), count).float()

    def __call__(self, **_: Any) -> Fixed:
        return self


def one_batch(made: Any) -> Any:
    numbers = np.arange(len(made))
    yield numbers, headed.collate(made, numbers, np.ones(len(numbers), np.float32), 0)


def named(names: list[str]) -> Any:
    features = {"tokens": datasets.List(datasets.Value("string")), "ner": datasets.List(datasets.ClassLabel(names=names))}
    made = datasets.Dataset.from_dict({"tokens": [["w7", "w8"]], "ner": [[2, 0]]}, datasets.Features(features))
    table = made.with_format("arrow")[:]
    return Documents(table.append_column("tags", table["ner"]), None)


def test_numbers_are_named_by_the_file() -> None:
    read = named(list(TAGS))
    assert task(()).find_labels(read) == list(TAGS)
    assert task().examples(read, headed.tokenizer(framed=False), 8).labels.tolist() == [2, 0]
    few = task(scheme="io", labels=["O", "art", "building"])
    assert few.find_labels(documents((["w7"], [1]))) == ["O", "I-art", "I-building"]


BAD = {
    "row 1 .*tokens is empty": ([], []),
    "row 1 .*2 tokens but 1 tags": (["w7", "w8"], ["O"]),
    "row 1 .*unknown tag 'I-Y'": (["w7"], ["I-Y"]),
    "row 1 .*unknown tag '3'": (["w7"], [3]),
    "row 1 .*tokens holds something that is not text": ([None, "w7"], ["O", "O"]),
}


@pytest.mark.parametrize("line", BAD)
def test_bad_rows_are_one_line(line: str) -> None:
    tokens = pa.array([BAD[line][0]], pa.list_(pa.string()))
    read = Documents(pa.table({"tokens": tokens, "tags": [BAD[line][1]]}), None)
    with pytest.raises(DataError, match=line) as caught:
        task().examples(read, headed.tokenizer(), 16)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tags", "line"),
    [([1, 2], "have no names in this file; give them in task.labels"), (["PER", "O"], "is not BIO .*task.scheme=io")],
)
def test_tags_that_cannot_be_read_are_one_line(tags: list[Any], line: str) -> None:
    with pytest.raises(DataError, match=line):
        task(()).find_labels(documents((["w7", "w8"], tags)))


def test_a_missing_column_is_one_line(tmp_path: Path) -> None:
    config = headed.a_run(tmp_path, "gpt2", {"name": "token-classification"}, [{"tokens": ["w7"], "ner": ["O"]}] * 9)
    with pytest.raises(DataError, match=r"no column 'tags' for the task's 'tags' \(columns: ner, tokens\)"):
        train(config, tmp_path / "out", quiet=True)


def test_an_architecture_without_the_head_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="transformers has no TokenClassification head for bart"):
        train(a_run(tmp_path, "bart"), tmp_path / "out", quiet=True)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_loss_is_transformers_own(kind: str, tmp_path: Path) -> None:
    bound, model, together, alone = headed.batches(a_run(tmp_path, kind))
    losses = bound.loss(model, together).row_losses
    for row, one in enumerate(alone):
        labels = torch.full(one.input_ids.shape, IGNORED).view(-1).index_put((one.positions,), one.targets).view(1, -1)
        theirs = model(**inputs(one), labels=labels).loss * len(one.targets)
        assert float(losses[row]) == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_is_learnt_and_comes_back(kind: str, tmp_path: Path) -> None:
    config = a_run(tmp_path, kind, steps=40, learning_rate=2e-2, head_learning_rate_ratio=1)
    scores = headed.is_learnt_and_comes_back(config, tmp_path)
    assert list(scores)[:4] == ["f1", "precision", "recall", "token_f1"]
    assert scores["token_f1"] > 0.5


@pytest.mark.parametrize("kind", ["roberta_classifier", "gpt2", "mixtral", "t5"])
def test_two_in_a_stack_are_the_two_alone(kind: str, tmp_path: Path) -> None:
    headed.in_a_stack_as_alone(a_run(tmp_path, kind, steps=8, evaluate_from=1), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_costs_what_torch_counts(kind: str, tmp_path: Path) -> None:
    headed.costs_what_torch_counts(a_run(tmp_path, kind), TAGS)
