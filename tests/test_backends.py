"""Other trainers: step by step the same path as our own loop, and the same record."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import headed
import numpy as np
import pytest
import tiny
import torch

from isolora.config import RunConfig
from isolora.store import Store
from isolora.training.backends import driver
from isolora.training.loop import Stack
from isolora.training.run import build

torch.set_num_threads(1)
NEVER = 1e9
STEPS = 30


def texts(folder: Path) -> RunConfig:
    return tiny.from_files(folder, steps=STEPS, evaluate_from=NEVER, accumulation=7, schedule="cosine", clip_norm=0.3)


def entities(folder: Path) -> RunConfig:
    rows = [{"tokens": tiny.words(6, seed).split(), "tags": ["O", "B-A", "I-A", "O", "B-B", "O"]} for seed in range(60)]
    return headed.a_run(folder, "roberta_classifier", {"name": "token-classification"}, rows, steps=STEPS, evaluate_from=NEVER)


def summaries(folder: Path) -> RunConfig:
    rows = [{"document": tiny.words(9, seed), "summary": tiny.words(4, seed)} for seed in range(60)]
    return tiny.from_rows(folder, "bart", "summarization", rows, steps=STEPS, evaluate_from=NEVER)


def talks(folder: Path) -> RunConfig:
    turns = [[("user", 3), ("assistant", 4), ("user", 2), ("assistant", 3)] for _ in range(60)]
    rows = [
        {"messages": [{"role": role, "content": tiny.words(count, 9 * row + place)} for place, (role, count) in enumerate(talk)]}
        for row, talk in enumerate(turns)
    ]
    task = {"name": "conversation", "template": tiny.CHAT}
    return tiny.from_rows(folder, "gpt2", task, rows, steps=STEPS, evaluate_from=NEVER, accumulation=2)


def answers(folder: Path) -> RunConfig:
    rows = [{"prompt": tiny.words(5, seed), "completion": tiny.words(2 + seed % 3, seed)} for seed in range(60)]
    return tiny.from_rows(folder, "llama", "instruction", rows, steps=STEPS, evaluate_from=NEVER, schedule="linear")


def pairs(folder: Path, **settings: Any) -> RunConfig:
    rows = [
        {"prompt": tiny.words(3, seed), "chosen": tiny.words(2 + seed % 4, seed), "rejected": f"w{2 + seed % 7} w9"}
        for seed in range(60)
    ]
    task = {"name": "preference", **settings}
    return tiny.from_rows(folder, "llama", task, rows, steps=STEPS, evaluate_from=NEVER, accumulation=2)


def path(config: RunConfig, trainer: str, folder: Path) -> list[float]:
    """Mean loss of every step but the last, whose evaluation starts the sum anew."""
    stack = build([config], ["run"], Store(folder))
    sums: list[tuple[float, int]] = [(0.0, 0)]

    def on_step(stack: Stack) -> None:
        progress = stack.members[0].progress
        sums.append((progress.loss_sum, progress.loss_count))

    try:
        stack.train(folder / "checkpoints", NEVER, on_step, drive=driver(trainer))
    finally:
        stack.attached.detach()
    losses, counts = np.diff(np.array(sums[:-1]), axis=0).T
    return list(losses / counts)


@pytest.mark.parametrize(
    ("trainer", "run"),
    [
        ("hf", texts),
        ("hf", entities),
        ("hf", summaries),
        ("sft", texts),
        ("sft", talks),
        ("sft", answers),
        ("dpo", pairs),
        ("dpo", partial(pairs, loss_type="ipo", beta=0.5)),
    ],
)
def test_walks_the_path_of_the_native_loop(trainer: str, run: Any, tmp_path: Path, record_property: Any) -> None:
    """The same losses, whoever takes the steps; those of sft and dpo are TRL's own."""
    config = run(tmp_path)
    own, other = (np.array(path(config, name, tmp_path / name)) for name in ("native", trainer))
    apart = float(np.max(np.abs(other / own - 1)))
    record_property("largest relative difference", apart)
    print("APART", trainer, run, apart, own[:5].mean(), own[-5:].mean())
    assert len(own) == STEPS - 1
    assert own[-5:].mean() < own[:5].mean(), "something is learnt"
    assert apart < 1e-4
