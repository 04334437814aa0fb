"""Held-out scores: losses and answers from one forward pass, in passes of a size that a CPU likes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny

from isolora.config import RunConfig
from isolora.runs.workspace import Workspace
from isolora.training.evaluator import Evaluator
from isolora.training.stack import Stack
from isolora.training.training_run import loaded_stack

TEXTS = [{"text": tiny.words(6 + k % 5, k), "label": "ab"[k % 2]} for k in range(30)]
TAGGED = [{"tokens": [f"w{5 + k}", f"w{6 + k}"], "tags": ["B-X", "O"]} for k in range(30)]
PAIRS = [{"prompt": f"w{5 + k}", "chosen": f"w{6 + k}", "rejected": f"w{7 + k}"} for k in range(30)]
QUESTIONS = [
    {"question": f"w{5 + k}", "context": f"w6 w{7 + k} w8", "answers": {"text": [f"w{7 + k}"], "answer_start": [3]}}
    for k in range(30)
]
ANSWERING = {
    "sequence-classification": ("bert", TEXTS),
    "token-classification": ("bert", TAGGED),
    "question-answering": ("roberta_questions", QUESTIONS),
    "preference": ("llama", PAIRS),
}


@contextmanager
def passes(model: Any) -> Iterator[list[int]]:
    """Tokens of every forward pass of the model's body."""
    found: list[int] = []
    handle = model.base_model.register_forward_pre_hook(
        lambda _module, args, kwargs: found.append((args[0] if args else kwargs["input_ids"]).numel()), with_kwargs=True
    )
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def a_stack(config: RunConfig, members: int = 2) -> Iterator[tuple[Stack, Evaluator]]:
    configs = [config.model_copy(update={"seed": seed}) for seed in range(members)]
    with loaded_stack(configs, [str(k) for k in range(members)], Workspace()) as (stack, evaluator, _):
        stack.attached.train(False)
        yield stack, evaluator


@pytest.mark.parametrize("task", ANSWERING)
def test_losses_and_answers_take_one_pass(task: str, tmp_path: Path) -> None:
    kind, rows = ANSWERING[task]
    with a_stack(tiny.from_rows(tmp_path, kind, task, rows)) as (stack, evaluator):
        on = stack.examples.held_out
        alone = {k: evaluator.predictions(on, k).measures() for k in (0, 1)}
        with passes(stack.attached.model) as answering:
            evaluator.predictions(on, 1)
        with passes(stack.attached.model) as taken:
            losses, found = evaluator.losses_and_predictions(stack.examples, [0, 1], [1])
        joint = evaluator.losses(on, [0])  # member 0 does not answer, and still has its loss
        assert len(taken) == 2 * len(answering) > 0
        assert {k: found[k][""].measures() for k in found} == {1: alone[1]}
        assert on.mean_loss(losses[0]) == pytest.approx(joint[0], rel=1e-5)
        assert on.mean_loss(losses[1]) == pytest.approx(evaluator.losses(on, [1])[1], rel=1e-5)


def test_a_pass_has_a_thousand_tokens_or_two(tmp_path: Path) -> None:
    """Batches of 48 tokens are evaluated in larger ones, and of 6 members so many at a time that the cache holds them."""
    with a_stack(tiny.from_files(tmp_path, batch_tokens=48), members=6) as (stack, evaluator):
        on = stack.examples.held_out
        with passes(stack.attached.model) as few:
            losses = evaluator.losses(on, range(6))
        assert len(few) == 1  # all of these texts
        evaluator.batch_tokens = 700
        with passes(stack.attached.model) as grouped:
            again = evaluator.losses(on, range(6))
        assert len(grouped) == 3
        assert sum(grouped) == sum(few)
        assert again == pytest.approx(losses, rel=1e-6)


def test_less_memory_means_smaller_passes(tmp_path: Path) -> None:
    with a_stack(tiny.from_files(tmp_path, batch_tokens=48), members=1) as (stack, evaluator):
        evaluator.shrink(4)
        with passes(stack.attached.model) as small:
            evaluator.losses(stack.examples.held_out, [0])
        assert max(small) <= 12
