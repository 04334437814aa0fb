"""Other trainers: step by step the same path as our own loop, and the same record."""

from __future__ import annotations

import sys
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import headed
import numpy as np
import pytest
import tiny
import torch

from isolora import registry
from isolora.certify import certify
from isolora.config import RunConfig
from isolora.errors import ConfigError, MissingExtra
from isolora.runs.workspace import Workspace
from isolora.store import DIVERGED, Point, Store
from isolora.study.design import stacks
from isolora.training import train
from isolora.training.stack import Stack
from isolora.training.training_run import loaded_stack

torch.set_num_threads(1)
NEVER = 1e9
STEPS = 20
"""More than one pass, where texts are short."""
BOOKED = ("step", "tokens", "padding_tokens", "unique_tokens", "unique_examples", "passes", "flops", "flops_by_group")
# PEFT 0.21 asks transformers 5.23 for a property that the latter is about to rename.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def driver(trainer: str) -> Any:
    return registry.ready("trainer", trainer).drive


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
    sums: list[tuple[float, int]] = [(0.0, 0)]

    def on_step(stack: Stack) -> None:
        progress = stack.members[0].progress
        sums.append((progress.loss_sum, progress.loss_count))

    with loaded_stack([config], ["run"], Workspace()) as (stack, _, _):
        stack.written = []  # type: ignore[attr-defined]
        tiny.train(stack, folder / "checkpoints", NEVER, on_step, drive=driver(trainer))
    losses, counts = np.diff(np.array(sums[:-1]), axis=0).T
    return list(losses / counts)


@cache
def native_path(run: Any) -> list[float]:
    """Of our own loop: the same whichever trainer it is compared with."""
    with TemporaryDirectory() as folder:
        return path(run(Path(folder)), "native", Path(folder) / "native")


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
    own, other = np.array(native_path(run)), np.array(path(run(tmp_path), trainer, tmp_path / trainer))
    apart = float(np.max(np.abs(other / own - 1)))
    record_property("largest relative difference", apart)
    assert len(own) == STEPS - 1
    assert own[-5:].mean() < own[:5].mean(), "something is learnt"
    assert apart < 1e-4


def test_the_record_is_the_same(tmp_path: Path, plain_peft_here: None) -> None:
    config = tiny.from_files(tmp_path, steps=8, evaluate_from=80, method={"dropout": 0.2})
    ends = {}
    for trainer in ("native", "hf"):
        own = config.model_copy(update={"training": config.training.model_copy(update={"trainer": trainer})})
        ends[trainer] = train(own, tmp_path / trainer, quiet=True)
    points = {trainer: Store(tmp_path / trainer).points() for trainer in ends}
    assert len(points["hf"]) == len(points["native"]) > 2
    for own, other in zip(points["native"], points["hf"], strict=True):
        assert other["loss"] == pytest.approx(own["loss"], rel=1e-5)
        assert {key: other[key] for key in BOOKED} == {key: own[key] for key in BOOKED}
    assert ends["hf"]["checks"]["step_flops"]["measured"] == ends["native"]["checks"]["step_flops"]["measured"]
    assert certify(ends["hf"]["adapter"]).passed
    assert not list((tmp_path / "hf").glob("checkpoints/*"))


@pytest.mark.parametrize("trainer", ["hf", "sft"])
def test_a_resumed_run_is_the_uninterrupted_one(trainer: str, tmp_path: Path) -> None:
    config = tiny.run(steps=20, method={"dropout": 0.3}, schedule="cosine", accumulation=2)
    points: list[Point] = []
    whole = tiny.stack([config], points)
    tiny.train(whole, tmp_path / "whole", NEVER, drive=driver(trainer))

    def stop(stack: Stack) -> None:
        if stack.steps == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.train(tiny.stack([config]), tmp_path / "cut", 0, stop, drive=driver(trainer))
    rest: list[Point] = []
    resumed = tiny.stack([config], rest)
    tiny.train(resumed, tmp_path / "cut", NEVER, drive=driver(trainer))
    assert torch.equal(whole.members[0].optimizer.groups[0].weights, resumed.members[0].optimizer.groups[0].weights)
    assert rest[-1].loss == points[-1].loss
    assert resumed.steps == 20


def test_adalora_prunes(tmp_path: Path) -> None:
    """Neither Trainer nor TRL would call it by themselves."""
    method = {"name": "adalora", "init_rank": 6, "target_rank": 2, "interval_steps": 2}
    ranks: list[dict[str, Any]] = []
    stack = tiny.stack([tiny.run(steps=40, method=method)])
    tiny.train(stack, tmp_path, NEVER, lambda stack: ranks.append(stack.attached.facts(0)), drive=driver("hf"))
    layers = len(ranks[0]["ranks"])
    assert (ranks[0]["total_rank"], ranks[-1]["total_rank"]) == (6 * layers, 2 * layers)
    assert len(set(ranks[-1]["ranks"].values())) > 2, "layers keep different ranks"


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    ends = []
    for trainer in ("native", "hf"):
        points: list[Point] = []
        stack = tiny.stack([tiny.run(steps=12, learning_rate=1e30)], points)
        tiny.train(stack, tmp_path / trainer, NEVER, drive=driver(trainer))
        ends.append((stack.members[0].progress.state, stack.members[0].progress.step, points))
    assert ends[0] == ends[1]
    assert ends[1][0] == DIVERGED


@pytest.mark.parametrize("trainer", ["hf", "sft"])
def test_the_base_is_left_as_it_was(trainer: str, tmp_path: Path) -> None:
    model = tiny.llama()
    before, attributes = model.config.to_dict(), set(vars(model))
    stack = tiny.stack([tiny.run(precision="bfloat16")], model=model)
    tiny.train(stack, tmp_path, NEVER, drive=driver(trainer))
    stack.attached.detach()
    assert (model.config.to_dict(), set(vars(model))) == (before, attributes)


@pytest.mark.parametrize(
    ("trainer", "run", "said"),
    [
        ("sft", entities, "sft trains decoders on next tokens"),
        ("dpo", texts, "dpo learns from chosen and rejected answers"),
    ],
)
def test_a_trainer_that_does_not_suit_the_task(trainer: str, run: Any, said: str, tmp_path: Path) -> None:
    config = run(tmp_path)
    config = config.model_copy(update={"training": config.training.model_copy(update={"trainer": trainer})})
    with pytest.raises(ConfigError, match=said):
        train(config, tmp_path / "out", quiet=True)


def test_trl_would_overlook_an_adapted_head(tmp_path: Path) -> None:
    stack = tiny.stack([tiny.run(method={"targets": ["q_proj", "lm_head"]})])
    with pytest.raises(ConfigError, match="past what a method adds to it"):
        tiny.train(stack, tmp_path, NEVER, drive=driver("sft"))


def test_trl_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "isolora.training.backends.sft", raising=False)
    monkeypatch.setitem(sys.modules, "trl", None)
    registry.load_plug_in.cache_clear()
    with pytest.raises(MissingExtra, match=r"isolora\[trl\]"):
        driver("sft")


def test_a_study_trains_them_one_by_one() -> None:
    runs = [tiny.run(seed=seed, trainer="hf") for seed in range(3)]
    assert [len(stack) for stack in stacks(runs, 8)] == [1, 1, 1]
