"""Question answering: answers as places of tokens, windows, the best span, and the life of the task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import headed
import numpy as np
import pytest
import tiny
import torch
from transformers import AutoModelForQuestionAnswering

from isolora.adapters.export import export_adapter
from isolora.config import RunConfig
from isolora.errors import DataError
from isolora.metrics.squad import v2_questions
from isolora.tasks.base import IGNORED
from isolora.tasks.class_heads import inputs
from isolora.tasks.question_answering import QuestionAnswering, QuestionAnsweringSettings, best_span
from isolora.training import train

torch.set_num_threads(1)
KINDS = (*headed.ENCODERS, *headed.DECODERS, "bart", "t5")


def rows(count: int = 60, unanswerable: bool = False) -> list[dict[str, Any]]:
    """The answer is whatever lies between w50 and w51; without them there is none."""
    drawn = np.random.default_rng(0)
    return [question(drawn, row, unanswerable and row % 3 == 0) for row in range(count)]


def question(drawn: Any, row: int, unanswerable: bool) -> dict[str, Any]:
    before, answer, behind = (" ".join(f"w{word}" for word in drawn.integers(10, 20, count)) for count in (3 + row % 4, 1, 4))
    context = f"{before} {behind}" if unanswerable else f"{before} w50 {answer} w51 {behind}"
    found = {"text": [], "answer_start": []} if unanswerable else {"text": [answer], "answer_start": [len(before) + 5]}
    return {"id": str(row), "question": "w8 w9", "context": context, "answers": found}


def a_run(folder: Path, kind: str, unanswerable: bool = False, **changes: Any) -> RunConfig:
    return headed.a_run(folder, kind, {"name": "question-answering"}, rows(90, unanswerable), **changes)


def task(**settings: Any) -> QuestionAnswering:
    return QuestionAnswering(QuestionAnsweringSettings(**settings))


def asked(context: str, *answers: str, question: str = "w8") -> dict[str, Any]:
    starts = [context.index(answer) for answer in answers]
    return {"question": question, "context": context, "answers": {"text": list(answers), "answer_start": starts}}


def labels(context: str, *answers: str, length: int = 32, **settings: Any) -> list[list[int]]:
    made = task(**settings).examples(tiny.documents([asked(context, *answers)]), headed.tokenizer(), length)
    return [
        [0 if label == IGNORED else label for label in made.subset(np.array([row])).labels.tolist()] for row in range(len(made))
    ]


def test_start_and_end() -> None:
    """[CLS] w8 [SEP] w10 un do ing w11 w12 [SEP]"""
    assert labels("w10 undoing w11 w12", "w11 w12") == [[0, 0, 0, 0, 0, 0, 0, 1, 2, 0]]
    assert labels("w10 undoing w11 w12", "undoing") == [[0, 0, 0, 0, 1, 0, 2, 0, 0, 0]]
    assert labels("w10 undoing w11 w12", "w10", "w12") == [[0, 0, 0, 3, 0, 0, 0, 0, 0, 0]]
    assert labels("w10 undoing w11 w12") == [[3, 0, 0, 0, 0, 0, 0, 0, 0, 0]]


def test_an_answer_within_a_word_is_its_pieces() -> None:
    assert labels("w10 undoing w11", "doing") == [[0, 0, 0, 0, 0, 1, 2, 0, 0]]


def test_windows_without_the_whole_answer_say_so() -> None:
    """Room for four tokens of the context, of which two are seen again."""
    assert labels("w10 w11 w12 w13 w14 w15", "w10 w11 w12 w13", length=8, overlap=0.5) == [
        [0, 0, 0, 1, 0, 0, 2, 0],
        [3, *[0] * 7],
    ]
    assert labels("w10 w11 w12 w13 w14 w15", "w13 w14", length=8, overlap=0.5) == [[3, *[0] * 7], [0, 0, 0, 0, 1, 2, 0, 0]]


def test_questions_are_cut_and_contexts_marked() -> None:
    row = asked("w10 w11", "w11", question="w7 w8 w9")
    made = task(max_question_tokens=2).examples(tiny.documents([row, row]), headed.tokenizer(typed=True), 32)
    assert made.ids[:7].tolist() == [2, 7, 8, 3, 10, 11, 3]
    batch = headed.collate(made, np.arange(2), np.ones(2, np.float32), 0)
    assert inputs(batch)["token_type_ids"][0].tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_best_span_by_hand() -> None:
    start, end = np.array([0.0, 5, 1, 0], np.float32), np.array([6.0, 0, 1, 4], np.float32)
    assert best_span(start, end, 30) == (1, 3)  # not (1, 0), which ends before it begins
    assert best_span(start, end, 2) == (0, 0)  # 6, as good as (1, 2) and found first
    assert best_span(start, end + np.array([-9, 0, 0, 0], np.float32), 2) == (1, 2)


class Fixed:
    """A model that gives these logits of start and end [rows, length] for its batches in turn."""

    def __init__(self, *logits: tuple[list[list[float]], list[list[float]]]) -> None:
        self.turns = iter(logits)

    def __call__(self, **_: Any) -> Any:
        start, end = next(self.turns)
        outputs = {"start_logits": torch.tensor(start), "end_logits": torch.tensor(end)}
        return type("Outputs", (dict,), {"__getattr__": dict.__getitem__})(outputs)


def scored(rows: list[dict[str, Any]], length: int, *logits: tuple[list[list[float]], list[list[float]]]) -> dict[str, float]:
    """One window a batch."""
    bound, read, tokenizer = task(overlap=0.0), tiny.documents(rows), headed.tokenizer(framed=False)
    made = bound.examples(read, tokenizer, length)
    assert len(made) == len(logits)
    one = [(np.array([i]), headed.collate(made, np.array([i]), np.ones(1, np.float32), 0)) for i in range(len(made))]
    return bound.predictions(Fixed(*logits), made, read, tokenizer, lambda: iter(one)).measures()


def test_the_best_window_answers() -> None:
    """w8, then two words of the context each; the second window is surer, and its answer is the second true one."""
    row = asked("w10 w11 w12 w13", "w10 w11", "w12")
    first = ([[9.0, 2, 0]], [[9.0, 0, 2]])
    assert scored([row], 3, first, ([[0.0, 3, 0]], [[0.0, 3, 0]])) == {"f1": 1, "exact": 1}
    assert scored([row], 3, first, ([[0.0, 1, 0]], [[0.0, 1, 0]])) == {"f1": 1, "exact": 1}
    assert scored([row], 3, first, ([[0.0, 0, 3]], [[0.0, 0, 3]])) == {"f1": 0, "exact": 0}


def test_no_answer_where_every_window_says_so() -> None:
    """Logits of none are 18 and 0, so 0 counts; v2 compares them with the best span's."""
    rows = [asked("w10 w11 w12 w13", "w12"), asked("w10 w11")]
    windows = (([[9.0, 2, 0]], [[9.0, 0, 2]]), ([[0.0, 3, 0]], [[0.0, 3, 0]]), ([[4.0, 1, 1]], [[4.0, 1, 1]]))
    found = scored(rows, 3, *windows)
    assert found == v2_questions([["w12"], []], ["w12", "w10"], np.array([0.0 - 6, 8.0 - 2])).scores(np.arange(2))
    assert next(iter(found)) == "f1"
    assert (found["f1"], found["HasAns_f1"], found["NoAns_f1"]) == (1, 1, 1)


def test_padding_has_no_part_in_the_softmax() -> None:
    made = task().examples(tiny.documents([asked("w10 w11"), asked("w10")]), headed.tokenizer(framed=False), 8)
    batch = headed.collate(made, np.arange(2), np.array([0.5, 2], np.float32), 0)
    loss = task().loss(Fixed(([[0.0] * 3, [0, 0, 99]], [[0.0] * 3, [0, 0, 99]])), batch)
    assert loss.row_losses.tolist() == pytest.approx([np.log(3), np.log(2)])
    assert float(loss.objective) == pytest.approx(0.5 * np.log(3) + 2 * np.log(2))


BAD: dict[str, dict[str, Any]] = {
    "row 2 .*question is empty": asked("w10", question=" "),
    "row 2 .*context is empty": asked(""),
    "row 2 .*answer 'w11' is not at character 1 of its context": {
        **asked("w10 w11", "w11"),
        "answers": {"text": ["w11"], "answer_start": [1]},
    },
}


@pytest.mark.parametrize("line", BAD)
def test_bad_rows_are_one_line(line: str) -> None:
    with pytest.raises(DataError, match=line) as caught:
        task().examples(tiny.documents([asked("w10", "w10"), BAD[line]]), headed.tokenizer(), 16)
    assert "\n" not in str(caught.value)


def test_answers_of_another_form_are_one_line() -> None:
    with pytest.raises(DataError, match=r'answers is no \{"text": \[...\], "answer_start": \[...\]\}'):
        task().examples(tiny.documents([{**asked("w10"), "answers": ["w10"]}]), headed.tokenizer(), 16)


@torch.no_grad()
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "t5"])
def test_loss_is_transformers_own(kind: str, tmp_path: Path) -> None:
    """Theirs one row at a time, since they let padding into the softmax. T5's is left out: theirs has a decoder too."""
    bound, model, together, alone = headed.batches(a_run(tmp_path, kind, unanswerable=True))
    losses, own = bound.loss(model, together).row_losses, model
    if kind == "llama":  # whose question head comes without a body
        own = AutoModelForQuestionAnswering.from_config(model.config).eval()
        own.load_state_dict(
            {
                name.replace("model.", "transformer.", 1).replace("score", "qa_outputs"): weight
                for name, weight in model.state_dict().items()
            }
        )
    for row, one in enumerate(alone):
        starts, ends = (one.positions[one.targets // label % 2 == 1] for label in (1, 2))
        theirs = own(**inputs(one), start_positions=starts, end_positions=ends).loss
        assert float(losses[row]) == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_body_is_the_checkpoints(kind: str, tmp_path: Path) -> None:
    """Transformers reads nothing into Llama's own question head, and says so in a table alone."""
    _, model, _, _ = headed.batches(a_run(tmp_path, kind))
    saved = {id(weight): weight for weight in tiny.ARCHITECTURES[kind]().state_dict().values()}
    for name, weight in model.base_model.state_dict().items():
        assert any(weight.shape == other.shape and torch.equal(weight, other) for other in saved.values()), name


@pytest.mark.parametrize("kind", KINDS)
def test_is_learnt_and_comes_back(kind: str, tmp_path: Path) -> None:
    config = a_run(tmp_path, kind, steps=80 if kind in headed.ENCODERS else 40, learning_rate=2e-2)
    assert list(headed.is_learnt_and_comes_back(config, tmp_path)) == ["f1", "exact"]


def test_no_answers_are_learnt(tmp_path: Path) -> None:
    config = a_run(tmp_path, "bert_classifier", unanswerable=True, steps=100, learning_rate=2e-2)
    scores = headed.is_learnt_and_comes_back(config, tmp_path)
    assert next(iter(scores)) == "f1"
    assert scores["best_f1"] >= scores["f1"] > 0.5
    assert scores["NoAns_f1"] > 0.5


@pytest.mark.parametrize("kind", ["roberta_classifier", "gpt2", "mixtral", "bart", "t5"])
def test_two_in_a_stack_are_the_two_alone(kind: str, tmp_path: Path) -> None:
    headed.in_a_stack_as_alone(a_run(tmp_path, kind, steps=8, evaluate_from=1), tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_costs_what_torch_counts(kind: str, tmp_path: Path) -> None:
    headed.costs_what_torch_counts(a_run(tmp_path, kind), ())


def test_the_class_that_was_trained_is_named_and_exported(tmp_path: Path) -> None:
    """T5's token head stands in for its question head, and makes an encoder of its configuration, from which another class
    followed: the card named a class of other scores, and the merged model was not exported."""
    place = tmp_path / "out"
    ended = train(a_run(tmp_path, "t5", steps=2), place, quiet=True)
    told = json.loads((Path(ended["adapter"]) / "isolora.json").read_text())
    assert told["auto_class"] == "AutoModelForTokenClassification"
    assert export_adapter(place, "merged", tmp_path / "merged").folder.is_dir()
