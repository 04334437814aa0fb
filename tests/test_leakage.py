"""Nothing that is measured was learnt: packed texts, held-out documents of every packaged data set, and prompts."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from isolora import data, registry
from isolora.config import DataConfig
from isolora.runs.batches import collate
from isolora.tasks.base import IGNORED, Batch, Examples
from isolora.tasks.causal_lm import packed

torch.set_num_threads(1)
ALL = 1_000_000
IDS = {"id", "idx", "label"}


def splits_of(name: str) -> tuple[data.Documents, data.Documents, data.Documents]:
    """Train, validation and test as a run gets them, whole."""
    found = data.load_documents(DataConfig(source=name, eval_examples=ALL))
    return found.train, found.validation, found.test


def family(row: dict[str, Any]) -> str:
    """The source package without its version: `llvm-toolchain-14` and `-15` tell the same story."""
    return re.sub(r"[-.]?\d[\d.]*", "", row["source"])


def whole(row: dict[str, Any]) -> str:
    """All that a row says: the samples of hub sets are drawn row by row."""
    return repr([value for name, value in row.items() if name not in IDS])


DEBIAN = ("debian-conversations", "debian-descriptions", "debian-preferences", "debian-questions")
SAMPLES = tuple(name for name in data.packaged_data() if name.startswith("sample-"))
OTHERS = {"general-english", "pii-synthetic"}
"""Their sources are passages and templates; see their own tests."""


def test_every_packaged_data_set_is_looked_at() -> None:
    assert set(data.packaged_data()) == {*DEBIAN, *SAMPLES} | OTHERS


@pytest.mark.parametrize("name", [*DEBIAN, *SAMPLES])
def test_no_held_out_document_is_of_a_source_in_train(name: str) -> None:
    source: Callable[[dict[str, Any]], str] = family if name in DEBIAN else whole
    train, validation, test = ({source(row) for row in part.rows()} for part in splits_of(name))
    assert min(map(len, (train, validation, test))) >= 20
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_no_held_out_passage_stands_in_a_train_document() -> None:
    train, validation, test = splits_of("general-english")
    everything = "\n".join(train.texts)
    assert not [text for text in validation.texts + test.texts if text in everything]


def templates() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """Split -> (language, what fits a text that is made of the template) of each template of pii-synthetic."""
    folder = data.packaged_data()["pii-synthetic"]
    sys.path.insert(0, str(folder))
    try:
        made = runpy.run_path(str(folder / "pool.py"))
    finally:
        sys.path.remove(str(folder))
    pools = made["divide"](made["templates"]())
    return {split: [(each.language, fitting(each.text)) for each in pool] for split, pool in pools.items()}


def fitting(template: str) -> re.Pattern[str]:
    """`[a|b]` is one of several wordings, `{NAME}` any value."""
    pieces = re.split(r"(\[[^\]]*\]|\{[A-Z0-9]+\})", template)
    return re.compile("".join(map(_fitting, pieces)), re.DOTALL)


def _fitting(piece: str) -> str:
    if piece.startswith("["):
        return f"(?:{'|'.join(fitting(wording).pattern for wording in piece[1:-1].split('|'))})"
    return ".{1,120}?" if piece.startswith("{") else re.escape(piece)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_no_held_out_document_is_made_of_a_train_template(split: str) -> None:
    pytest.importorskip("faker")
    pools = templates()
    held_out = splits_of("pii-synthetic")[1 if split == "validation" else 2]
    rows = list(held_out.rows())[:60]
    own, others = (
        [[row for row in rows if any(language == row["language"] and fits.search(row["source_text"]) for language, fits in pool)]]
        for pool in (pools[split], pools["train"])
    )
    assert own == [rows]
    assert others == [[]]


def test_packed_documents_have_no_gradient_from_each_other() -> None:
    """What one document's loss says about the tokens of the others: nothing at all."""
    model, examples = tiny.llama(), tiny.examples([6, 8, 5])
    task = registry.load_plug_in("task", "causal-lm")
    batch = batch_of(packed(examples, 64))
    assert len(batch.input_ids) == 1
    kept: list[torch.Tensor] = []
    model.get_input_embeddings().register_forward_hook(lambda _m, _i, output: kept.append(output.requires_grad_()))
    for number in range(3):
        start, stop = examples.starts[number : number + 2]
        own = (batch.positions >= start) & (batch.positions < stop)
        alone = replace(batch, target_rows=own.long(), row_weights=torch.tensor([0.0, 1.0]))
        objective = task.bound(task.Settings(packing=True)).loss(model, alone).objective
        (gradient,) = torch.autograd.grad(objective, kept.pop())
        sizes = gradient[0].abs().sum(1)
        assert sizes[start : stop - 1].min() > 0
        assert sizes[:start].sum() + sizes[stop:].sum() == 0


def batch_of(examples: Examples) -> Batch:
    return collate(examples, np.arange(len(examples)), np.ones(len(examples), np.float32), 0)


PROMPT = [f"w{number}" for number in range(6, 12)]
ANSWER = [f"w{number}" for number in range(40, 46)]
SAID, ASKED = " ".join(ANSWER), " ".join(PROMPT)
TALK = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}]
PROMPTED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "summarization, decoder": ("summarization", "llama", {"document": ASKED, "summary": SAID}),
    "summarization, encoder-decoder": ("summarization", "t5", {"document": ASKED, "summary": SAID}),
    "instruction, decoder": ("instruction", "gpt2", {"prompt": ASKED, "completion": SAID}),
    "instruction, encoder-decoder": ("instruction", "bart", {"prompt": ASKED, "completion": SAID}),
    "conversation": ("conversation", "llama", {"messages": [*TALK, *TALK]}),
    "conversation, prompt and completion": ("conversation", "llama", {"prompt": ASKED, "completion": SAID}),
    "preference": ("preference", "llama", {"prompt": ASKED, "chosen": SAID, "rejected": " ".join(ANSWER[::-1])}),
    "preference, turns": (
        "preference",
        "llama",
        {"prompt": TALK[:1], "chosen": TALK[1:], "rejected": [{**TALK[1], "content": f"{SAID} {SAID}"}]},
    ),
}
"""Task, model and row; a prompt's words are w6 to w11, an answer's w40 to w45."""


def made(case: str, max_length: int) -> tuple[Any, Examples]:
    """(the task, its examples of three rows)."""
    name, kind, row = PROMPTED[case]
    task = registry.load_plug_in("task", name)
    task = task.bound(task.Settings(), architecture=tiny.ARCHITECTURES[kind]().config)
    return task, task.examples(tiny.documents([row] * 3), tiny.tokenizer(eos_token="w60"), max_length)


def sequences(examples: Examples) -> Iterator[Examples]:
    """What has labels: the examples, and their rejected answers."""
    yield examples
    if examples.second is not None and (examples.second.labels != IGNORED).any():
        yield examples.second


@pytest.mark.parametrize("max_length", [64, 14])
@pytest.mark.parametrize("case", PROMPTED)
def test_prompts_carry_no_loss(case: str, max_length: int) -> None:
    """Cut short or not, no word of a prompt is a label, and every word of an answer that is shown is one."""
    _, examples = made(case, max_length)
    for part in sequences(examples):
        asked = set(batch_of(part).targets.tolist())
        assert not asked & set(range(6, 12))
        assert asked & set(range(40, 46))
        for start, stop in zip(part.starts, part.starts[1:], strict=False):
            ids, labels = part.ids[start:stop], part.labels[start:stop]
            if examples.second is None or "preference" in case:
                answers = [place for place in range(1, len(ids)) if 40 <= ids[place] < 46]
                assert [labels[place - 1] for place in answers] == [ids[place] for place in answers]
                assert not [label for place, label in enumerate(labels[:-1]) if 6 <= ids[place + 1] < 12 and label != IGNORED]


@pytest.mark.parametrize("case", PROMPTED)
def test_what_a_model_makes_of_prompts_does_not_count(case: str) -> None:
    """The loss has a gradient where a token is asked for, and none at any other place."""
    task, examples = made(case, 64)
    model = tiny.ARCHITECTURES[PROMPTED[case][1]]()
    states: list[torch.Tensor] = []
    model.base_model.register_forward_hook(lambda _model, _given, output: states.append(output[0]) or output[0].retain_grad())
    if task.uses_reference:
        examples = replace(examples, values=np.zeros((len(examples), 2), np.float32))
    task.loss(model, batch_of(examples)).objective.backward()
    for part, state in zip(sequences(examples), states, strict=True):
        asked = torch.zeros(state.shape[:2], dtype=torch.bool).flatten()
        asked[batch_of(part).positions] = True
        assert state.grad is not None
        assert torch.equal(state.grad.abs().sum(-1).flatten() > 0, asked)
