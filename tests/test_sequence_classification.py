"""Sequence classification and regression: where the label is asked for, on any head, and the life of the task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import headed
import numpy as np
import pytest
import tiny
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model

from isolora.config import RunConfig
from isolora.data import Documents
from isolora.errors import DataError
from isolora.tasks.base import IGNORED
from isolora.tasks.class_heads import inputs
from isolora.tasks.sequence_classification import SequenceClassification, SequenceClassificationSettings
from isolora.training import train

torch.set_num_threads(1)
KINDS = (*headed.ENCODERS, *headed.DECODERS, "bart", "t5")
KIND_OF_LABELS: dict[str, Any] = {"text": ("low", "high"), "numbers": (-1.5, 0.5)}


def rows(labels: tuple[Any, Any] = ("low", "high"), pairs: bool = False, count: int = 60) -> list[dict[str, Any]]:
    """The first class uses w10 to w13, the second w35 to w38."""
    drawn = np.random.default_rng(0)
    made = []
    for row in range(count):
        texts = [" ".join(f"w{word}" for word in drawn.integers(10, 14, 4 + row % 5) + 25 * (row % 2)) for _ in range(2)]
        made.append({"text": texts[0], "label": labels[row % 2], **({"text_pair": texts[1]} if pairs else {})})
    return made


def a_run(folder: Path, kind: str, rows: list[dict[str, Any]], **changes: Any) -> RunConfig:
    return headed.a_run(folder, kind, {"name": "sequence-classification"}, rows, **changes)


def task(classes: tuple[str, ...] = ("low", "high"), **settings: Any) -> SequenceClassification:
    return SequenceClassification(SequenceClassificationSettings(**settings), classes)


def labelled(*labels: Any) -> Any:
    return tiny.documents([{"text": f"w{10 + number}", "label": label} for number, label in enumerate(labels)])


def test_the_label_is_at_the_last_token() -> None:
    made = task().examples(labelled("high", "low"), headed.tokenizer(), 16)
    assert made.ids.tolist() == [2, 10, 3, 2, 11, 3]
    assert made.labels.tolist() == [IGNORED, IGNORED, 1, IGNORED, IGNORED, 0]


def test_a_long_text_keeps_its_end_mark() -> None:
    made = task().examples(tiny.documents([{"text": "w10 w11 w12 w13", "label": "low"}]), headed.tokenizer(), 4)
    assert made.ids.tolist() == [2, 10, 11, 3]


def test_pairs_are_marked_where_the_tokenizer_marks_them() -> None:
    pair = tiny.documents([{"text": "w10 w11", "text_pair": "w12", "label": "low"}] * 2)
    made = task().examples(pair, headed.tokenizer(typed=True), 16)
    assert made.ids[:6].tolist() == [2, 10, 11, 3, 12, 3]
    batch = headed.collate(made, np.arange(2), np.ones(2, np.float32), 0)
    assert inputs(batch)["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1]] * 2
    assert "token_type_ids" not in inputs(
        headed.collate(task().examples(pair, headed.tokenizer(), 16), np.arange(1), np.ones(1), 0)
    )


def test_words_that_look_like_marks_are_words() -> None:
    made = task().examples(tiny.documents([{"text": "w10 [SEP] w11", "label": "low"}]), headed.tokenizer(), 16)
    assert made.ids.tolist().count(3) == 1


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (("b", "a", "b"), ["a", "b"]),
        ((10, 9, 2), ["2", "9", "10"]),
        ((True, False), ["False", "True"]),
        ((0.5, 1.0), []),
    ],
)
def test_classes_found(labels: tuple[Any, ...], classes: list[str]) -> None:
    assert task(()).find_labels(labelled(*labels)) == classes


def test_classes_named_by_the_file_or_by_a_person_keep_their_order() -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "maybe", "yes"])})
    table = datasets.Dataset.from_dict({"text": ["w10", "w11"], "label": [2, 0]}, features).with_format("arrow")[:]
    assert task(()).find_labels(Documents(table, None)) == ["no", "maybe", "yes"]
    bound = task(("no", "maybe", "yes"))
    assert bound.examples(Documents(table, None), headed.tokenizer(), 9).labels[[2, 5]].tolist() == [2, 0]
    assert task((), labels=["yes", "no"]).find_labels(labelled("no", "yes")) == ["yes", "no"]


BAD: dict[str, dict[str, Any]] = {
    "row 2 .*text is empty": {"text": " ", "label": "low"},
    "row 2 .*text holds nothing": {"text": None, "label": "low"},
    "row 2 .*label holds nothing": {"text": "w10", "label": None},
    "row 2 .*unknown label 'lowest'; did you mean 'low'": {"text": "w10", "label": "lowest"},
}


@pytest.mark.parametrize("line", BAD)
def test_bad_rows_are_one_line(line: str) -> None:
    with pytest.raises(DataError, match=line) as caught:
        task().examples(tiny.documents([{"text": "w10", "label": "low"}, BAD[line]]), headed.tokenizer(), 16)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("label", "line"), [(-1, "unknown label '-1'"), (2, "unknown label '2'")])
def test_a_number_out_of_range_is_one_line(label: int, line: str) -> None:
    """GLUE's test sets have -1 everywhere."""
    with pytest.raises(DataError, match=line):
        task(("no", "yes")).examples(labelled(1, label), headed.tokenizer(), 16)


@pytest.mark.parametrize("label", [float("nan"), float("inf"), float(IGNORED)])
def test_numbers_that_cannot_be_learnt_are_one_line(label: float) -> None:
    with pytest.raises(DataError, match=r"is no number to learn|label holds nothing"):
        task(()).examples(labelled(0.5, label), headed.tokenizer(), 16)


def test_one_class_is_one_line() -> None:
    with pytest.raises(DataError, match="all training documents have the label x"):
        task(()).find_labels(labelled("x", "x"))


@torch.no_grad()
@pytest.mark.parametrize("labels", KIND_OF_LABELS)
@pytest.mark.parametrize("kind", KINDS)
def test_loss_is_transformers_own(kind: str, labels: str, tmp_path: Path) -> None:
    """Theirs one row at a time, where a decoder's last token is the row's."""
    bound, model, together, alone = headed.batches(a_run(tmp_path, kind, rows(KIND_OF_LABELS[labels])))
    losses = bound.loss(model, together).row_losses
    for row, one in enumerate(alone):
        assert float(losses[row]) == pytest.approx(float(model(**inputs(one), labels=one.targets).loss), rel=1e-5)
    assert model.config.pad_token_id == tiny.ARCHITECTURES[kind]().config.pad_token_id


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks transformers in the old way
@pytest.mark.parametrize("virtual_tokens", [0, 3])
@pytest.mark.parametrize("kind", headed.DECODERS)
def test_padding_changes_no_decoders_loss(kind: str, virtual_tokens: int, tmp_path: Path) -> None:
    """Also where the padding is what texts end with, and where a method puts virtual tokens in front."""
    bound, model, together, alone = headed.batches(a_run(tmp_path, kind, rows()))
    assert together.lengths.min() < together.lengths.max()
    last = int(alone[0].input_ids[0, -1])
    lora = LoraConfig(
        task_type="SEQ_CLS",
        target_modules=["q_proj"] if kind in ("llama", "mixtral") else "all-linear",
        fan_in_fan_out=kind == "gpt2",
    )
    prompt = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=virtual_tokens)
    peft = get_peft_model(model, prompt if virtual_tokens else lora).eval()
    plain = bound.loss(peft, together).row_losses
    model.config.pad_token_id = last
    assert torch.allclose(plain, bound.loss(peft, together).row_losses)
    assert torch.allclose(plain, torch.cat([bound.loss(peft, one).row_losses for one in alone]), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_is_learnt_and_comes_back(kind: str, tmp_path: Path) -> None:
    made = rows(pairs=kind in ("bert_classifier", "gpt2"))
    scores = headed.is_learnt_and_comes_back(a_run(tmp_path, kind, made, steps=26, learning_rate=2e-2), tmp_path)
    assert list(scores) == ["accuracy", "f1_macro"]
    assert scores["accuracy"] >= 0.8


@pytest.mark.parametrize("kind", ["roberta_classifier", "llama", "t5"])
def test_numbers_are_learnt(kind: str, tmp_path: Path) -> None:
    config = a_run(tmp_path, kind, rows((-1.5, 0.5)), steps=26, learning_rate=1e-2)
    scores = headed.is_learnt_and_comes_back(config, tmp_path)
    assert list(scores) == ["pearson", "spearman"]
    assert scores["pearson"] > 0.7


def test_glue_scores(tmp_path: Path) -> None:
    given = {"name": "sequence-classification", "glue": "mrpc"}
    config = headed.a_run(tmp_path, "gpt2", given, rows((0, 1), pairs=True), steps=26, learning_rate=2e-2)
    assert list(headed.is_learnt_and_comes_back(config, tmp_path)) == ["accuracy", "f1"]


def test_a_class_that_is_only_held_out_is_one_line(tmp_path: Path) -> None:
    for split, label in (("train", "low"), ("validation", "new")):
        lines = [f'{{"text": "w{10 + number}", "label": "{("high", label)[number % 2]}"}}' for number in range(8)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    config = a_run(tmp_path / "run", "gpt2", rows())
    config = config.model_copy(update={"data": config.data.model_copy(update={"source": str(tmp_path)})})
    with pytest.raises(DataError, match=r"unknown label 'new' \(valid: high, low\)"):
        train(config, tmp_path / "out", quiet=True)


@pytest.mark.parametrize("kind", ["roberta_classifier", "gpt2", "mixtral", "bart"])
def test_two_in_a_stack_are_the_two_alone(kind: str, tmp_path: Path) -> None:
    headed.in_a_stack_as_alone(a_run(tmp_path, kind, rows(), steps=8, evaluate_from=1), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_costs_what_torch_counts(kind: str, tmp_path: Path) -> None:
    headed.costs_what_torch_counts(a_run(tmp_path, kind, rows()), ("low", "high", "other"))
