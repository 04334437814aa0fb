"""Documents that give no example: none vanishes unsaid, in training, held-out and mixed sources, in every task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from isolora import data, registry
from isolora.config import RunConfig, parse
from isolora.data import make_examples
from isolora.errors import DataError
from isolora.training import train

torch.set_num_threads(1)
SHORT = [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w6"}]
LONG = [{"role": "user", "content": " ".join(["w5"] * 40)}, {"role": "assistant", "content": "w6"}]
REASON = "the assistant says nothing within the first 16 tokens (data.max_length)"


def bound(name: str, **settings: Any) -> Any:
    task = registry.load_plug_in("task", name)
    return task.bound(task.Settings(**settings))


def made(task: Any, rows: list[dict[str, Any]], max_length: int, skip: bool = False, tokenizer: Any = None) -> Any:
    tokenizer = tokenizer or tiny.tokenizer(eos_token="w60")
    documents = tiny.documents(rows)
    if "text" in rows[0] and task.name == "causal-lm":
        documents = data.Documents(documents.table, "{text}")
    return make_examples(task, documents, lambda part: task.examples(part, tokenizer, max_length), max_length, skip)


def chat(**settings: Any) -> Any:
    return bound("conversation", template=tiny.CHAT, **settings)


def test_a_conversation_without_a_label_is_named() -> None:
    with pytest.raises(DataError) as caught:
        made(chat(), [{"messages": SHORT}, {"messages": LONG}], 16)
    assert str(caught.value) == f"data: row 2 of those drawn: {REASON}"


def test_a_conversation_without_a_label_is_counted_where_rows_are_skipped() -> None:
    rows = [{"messages": LONG}, {"messages": SHORT}, {"messages": LONG}, {"messages": SHORT}]
    documents, examples = made(chat(), rows, 16, skip=True)
    assert (len(documents), len(examples), examples.documents.tolist()) == (2, 2, [0, 1])
    assert documents.left_out == (f"row 1 of those drawn: {REASON}", f"row 3 of those drawn: {REASON}")


def test_where_all_are_too_long_the_message_is_true() -> None:
    with pytest.raises(DataError, match=r"^data\.on_error: no row is left \(2 rows of the data left out \(.*16 tokens"):
        made(chat(), [{"messages": LONG}] * 2, 16, skip=True)


def test_a_template_that_refuses_some_rows_is_skipped_too() -> None:
    template = "{{ raise_exception('no system here') if messages[0].role == 'system' }}" + tiny.CHAT
    rows = [{"messages": SHORT}, {"messages": [{"role": "system", "content": "w9"}, *SHORT]}, {"messages": LONG}]
    documents, examples = made(bound("conversation", template=template), rows, 16, skip=True)
    assert (len(documents), len(examples)) == (1, 1)
    assert documents.left_out[0].startswith("row 2 of those drawn: task.template: refuses the conversation")
    assert documents.left_out[1].endswith(REASON)


@pytest.mark.parametrize("packing", [False, True])
def test_texts_of_one_token(packing: bool) -> None:
    rows = [{"text": "w5 w6"}, {"text": "w7"}, {"text": "w8 w9 w10"}, {"text": "w11"}]
    task, tokenizer = bound("causal-lm", packing=packing), tiny.tokenizer()
    with pytest.raises(DataError, match=r"^data: row 2 of those drawn: the text gives one token, and it takes two"):
        made(task, rows, 16, tokenizer=tokenizer)
    documents, examples = made(task, rows, 16, skip=True, tokenizer=tokenizer)
    assert (documents.texts, len(documents.left_out)) == (["w5 w6", "w8 w9 w10"], 2)
    assert examples.ids.tolist() == [5, 6, 8, 9, 10]


def test_one_position_is_said_to_be_too_few() -> None:
    with pytest.raises(DataError, match=r"data\.max_length is 1, and it takes two"):
        made(bound("causal-lm"), [{"text": "w5 w6"}], 1)


EVERY: dict[str, tuple[dict[str, Any], int]] = {
    "conversation": ({"messages": SHORT}, 2),
    "instruction": ({"prompt": "w5 w6", "completion": "w7"}, 1),
    "summarization": ({"document": "w5 w6", "summary": "w7"}, 1),
    "preference": ({"prompt": "w5 w6", "chosen": "w7", "rejected": "w8"}, 1),
    "causal-lm": ({"text": "w5 w6 w7"}, 1),
}


@pytest.mark.parametrize("name", EVERY)
def test_too_little_room_is_named_in_every_task(name: str) -> None:
    row, too_short = EVERY[name]
    task = chat() if name == "conversation" else bound(name)
    assert len(made(task, [row], 16)[1]) == 1
    with pytest.raises(DataError, match=r"^data: row 1 of those drawn: .*data\.max_length"):
        made(task, [row], too_short)


def test_a_text_without_a_token_shifts_no_label() -> None:
    """An empty example with a label once moved the labels of all behind it."""
    tokenizer = tiny.tokenizer()
    rows = [{"text": "w5 w6", "label": "a"}, {"text": "%", "label": "b"}, {"text": "w7", "label": "a"}]
    task = registry.load_plug_in("task", "sequence-classification")
    task = task.bound(task.Settings(), ["a", "b"])
    assert tokenizer("%", add_special_tokens=False).input_ids in ([], [1])
    tokenizer.backend_tokenizer.normalizer = __import__("tokenizers").normalizers.Replace("%", "")
    documents, examples = made(task, rows, 16, skip=True, tokenizer=tokenizer)
    assert (len(documents), examples.label_counts.tolist(), len(examples.ids)) == (2, [1, 1], len(examples.labels))
    assert documents.left_out == ("row 2 of those drawn: text gives no token with this tokenizer",)


def test_an_answer_that_no_window_holds_is_no_unanswerable_question() -> None:
    context = " ".join(f"w{number}" for number in range(10, 40))
    answer = " ".join(f"w{number}" for number in range(12, 32))
    row = {"question": "w5", "context": context, "answers": {"text": [answer], "answer_start": [context.index(answer)]}}
    task = bound("question-answering")
    assert len(made(task, [row], 48)[1]) == 1
    with pytest.raises(
        DataError, match=r"row 1 of those drawn: the answer 'w12 .*' is in no window of the context \(data\.max_length 16\)"
    ):
        made(task, [row], 16)


def run(folder: Path, **changes: Any) -> RunConfig:
    """30 conversations, of which the 17th of training and the 2nd held out are too long."""
    rows = [{"messages": [{"role": "user", "content": f"w5 w{number + 10}"}, SHORT[1]]} for number in range(30)]
    for split, place in (("train", 16), ("validation", 1), ("test", 2)):
        own = [*rows[:place], {"messages": LONG}, *rows[place + 1 :]]
        tiny.json_lines(folder / f"{split}.jsonl", own if split == "train" else own[:6])
    config = tiny.from_rows(folder, "llama", {"name": "conversation", "template": tiny.CHAT}, [], steps=2)
    given = {**config.model_dump(), "data": {"source": str(folder), "max_length": 16, "eval_examples": 6, **changes}}
    return parse(RunConfig, given)


def test_a_run_stops_with_the_line(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        train(run(tmp_path), tmp_path / "out", quiet=True)
    assert str(caught.value) == f"data: {tmp_path}/train.jsonl line 17: {REASON}"


def test_a_run_goes_on_and_counts_training_and_held_out_rows(tmp_path: Path) -> None:
    result = train(run(tmp_path, on_error="skip"), tmp_path / "out", quiet=True)
    assert (result["state"], result["rows_left_out"]) == ("complete", 2)
    assert json.loads((tmp_path / "out" / "adapter" / "isolora.json").read_text())["rows_left_out"] == 2


def test_rows_of_a_mixed_source_are_counted_too(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    mix = [{"source": str(tmp_path / "other"), "share": 0.5}]
    run(tmp_path / "other")
    config = run(tmp_path, on_error="skip", mix=mix)
    result = train(config, tmp_path / "out", quiet=True)
    assert (result["state"], result["rows_left_out"]) == ("complete", 4)


def test_every_example_has_a_label() -> None:
    rows = [{"text": " ".join(["w5"] * count)} for count in (1, 2, 20, 1, 40)]
    _, examples = made(bound("causal-lm", stride=8), rows, 16, skip=True, tokenizer=tiny.tokenizer())
    assert np.all(examples.label_counts > 0)
    assert int(examples.label_counts.sum()) == 1 + 19 + 39


def test_pairs_that_are_cut_before_they_differ_are_named_or_skipped() -> None:
    """Both sides alike: their loss would be ln 2 whatever the adapter does."""
    task = bound("preference", max_completion_tokens=4)
    good = {"prompt": "w5", "chosen": "w6 w7", "rejected": "w8 w9"}
    alike = {"prompt": "w5", "chosen": "w6 w7 w8 w9 w10", "rejected": "w6 w7 w8 w9 w11"}
    said = (
        r"an answer of which no token lies, or two that do not differ, within 32 tokens .* and 4 \(task\.max_completion_tokens\)"
    )
    with pytest.raises(DataError, match=said):
        made(task, [good, alike], 32)
    _, examples = made(task, [good, alike, good], 32, skip=True)
    assert len(examples) == 2
    wider = bound("preference", max_completion_tokens=5)
    assert len(made(wider, [good, alike, good], 32)[0]) == 3
