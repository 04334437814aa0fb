"""A task's life on every architecture it is for: learnt, saved, measured again, priced, stacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from person import run as person
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from isolora import adapters, models, registry
from isolora.config import RunConfig
from isolora.cost.estimate import cost
from isolora.cost.flops import experts_by_choice, rehearse, task_batch
from isolora.evaluation import evaluate
from isolora.ledger import BatchShape
from isolora.store import Store
from isolora.tasks.base import Task
from isolora.training import train, train_stack

torch.set_num_threads(1)
DECODERS = ("llama", "gpt2", "bloom", "mixtral")
ENCODER_DECODERS = ("bart", "t5")
TASKS: dict[str, dict[str, Any]] = {
    "summarization": {"max_new_tokens": 6, "suffix": " w59"},
    "instruction": {"template": "w50 {{ text }} w59", "completion": "{{ said }}", "max_new_tokens": 6, "score_examples": 3},
    "preference": {"beta": 1.0},
    "conversation": {"template": tiny.CHAT},
}
EVERYWHERE = [("summarization", kind) for kind in (*DECODERS, *ENCODER_DECODERS)]
CASES = [
    *EVERYWHERE,
    *(("instruction", kind) for kind in ("llama", "t5")),
    *((task, kind) for task in ("preference", "conversation") for kind in DECODERS),
]
SHAPES = {
    "one": ((3, 11, 20), (2, 29, 57), (5, 7, 35)),
    "two": ((3, 11, 20, 9), (2, 29, 56, 17), (5, 7, 30, 21)),
}
"""(rows, length, labels, second length); none is rehearsed."""


def rows(task: str) -> list[dict[str, Any]]:
    """What is to be said is the same but for one word, so that a short training teaches most of it."""
    texts = [(tiny.words(6 + seed % 5, seed), f"w10 w11 w{12 + seed % 2}") for seed in range(50)]
    columns = {
        "summarization": lambda text, said: {"document": text, "summary": said},
        "instruction": lambda text, said: {"text": text, "said": said, "task": said[-3:]},
        "preference": lambda text, said: {"prompt": text, "chosen": said, "rejected": said.replace("w1", "w2") + " w20"},
        "conversation": lambda text, said: {"messages": [turn("user", text), turn("assistant", said)] * 2},
    }
    return [columns[task](text, said) for text, said in texts]


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def a_run(folder: Path, task: str, kind: str, **changes: Any) -> RunConfig:
    return tiny.from_rows(folder, kind, {"name": task, **TASKS[task]}, rows(task), **{"batch_tokens": 200, **changes})


@pytest.mark.parametrize(("task", "kind"), CASES)
def test_is_learnt_and_comes_back(task: str, kind: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    config = a_run(tmp_path, task, kind, steps=16 if task == "preference" else 40, learning_rate=2e-2)
    ended = train(config, tmp_path / "out", quiet=True)
    points = Store(tmp_path / "out").points()
    assert ended["loss"] < 0.7 * points[0]["loss"]
    again = evaluate(tmp_path / "out", repeats=20)
    assert again["loss"] == pytest.approx(ended["loss"], rel=1e-6)
    assert again["metrics"] == pytest.approx(again["recorded_metrics"], rel=1e-6)
    assert again["metrics"]
    if task != "preference":
        prompt = f"w50 {tiny.words(7, 0)} w59" if task == "instruction" else tiny.words(7, 0)
        assert adapters.load(tmp_path / "out").generate(prompt, max_new_tokens=2).split() == ["w10", "w11"]
        _, out, _ = person(monkeypatch, capsys, "generate", tmp_path / "out", "--prompt", prompt, "--max-new-tokens", 2)
        assert out == "w10 w11\n", "an answer, without the question in front of it"


def addmm_flops(_: Any, a: Any, b: Any, **more: Any) -> int:
    """a [m, k] and b [k, n] arrive as shapes; torch's counter does not know the product in place."""
    return 2 * a[0] * a[1] * b[1]


def attached_to(config: RunConfig, task: Task) -> Any:
    """The run's LoRA on its loaded base."""
    base, lora = models.load_base(config, task), registry.load_plug_in("method", "lora")
    experts_by_choice(base.model)
    attached = lora.attach(base.model, [lora.settings(config.method.fields())], [0])
    attached.train(True)
    return attached


def counted(attached: Any, task: Task, shape: BatchShape) -> int:
    """FLOPs of a real step on the CPU, the reference's included, attention done in plain products."""
    batch = task_batch(task, shape, "cpu")
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: addmm_flops})
    with sdpa_kernel(SDPBackend.MATH), counter:
        if task.uses_reference:
            with torch.no_grad(), attached.rows(()):
                task.reference(attached.model, batch)
        task.loss(attached.model, batch).objective.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(("task", "kind"), [*EVERYWHERE, ("preference", "llama"), ("conversation", "gpt2")])
def test_costs_what_torch_counts(task: str, kind: str, tmp_path: Path) -> None:
    config = a_run(tmp_path, task, kind)
    bound, ledger = models.bound_task(config), rehearse(config)
    attached = attached_to(config, bound)
    for shape in SHAPES["two" if bound.second else "one"]:
        said = ledger.flops(BatchShape(*shape)).total
        assert said == pytest.approx(counted(attached, bound, BatchShape(*shape)), rel=1e-3), shape


@pytest.mark.parametrize(("task", "kind"), [("preference", "gpt2"), ("summarization", "t5")])
def test_a_whole_run_costs_what_was_said(task: str, kind: str, tmp_path: Path) -> None:
    """Two passes, the reference being paid for in the first one only."""
    config = a_run(tmp_path, task, kind, epochs=2)
    ended = train(config, tmp_path / "out", quiet=True)
    assert cost(config).flops.total == pytest.approx(ended["flops"], rel=1e-12)


@pytest.mark.parametrize(("task", "kind"), [*EVERYWHERE[-3:], ("preference", "llama"), ("conversation", "bloom")])
def test_two_in_a_stack_are_the_two_alone(task: str, kind: str, tmp_path: Path) -> None:
    first = a_run(tmp_path, task, kind, steps=8, evaluate_from=1)
    second = first.model_copy(update={"seed": 1, "method": tiny.run(method={"rank": 2}).method})
    store = Store(tmp_path / "together")
    names = train_stack([first, second], store, "grid", quiet=True)
    for name, config in zip(names, (first, second), strict=True):
        alone = tmp_path / name
        train(config, alone, quiet=True)
        losses = [[point["loss"] for point in points] for points in (store.points(name), Store(alone).points())]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        assert losses[0][-1] < losses[0][0]
