"""What only a GPU can prove: the same losses as the CPU, and the ledger's memory. Skipped without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from isolora.config import RunConfig, parse
from isolora.cost.estimate import typical
from isolora.cost.flops import TWO_CLASSES, attach_for_rehearsal, task_batch
from isolora.cost.memory import one_step, peak
from isolora.models import bound_task
from isolora.runs.optimizer import AveragedAdamW
from isolora.training import train

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]


def a_run(folder: Path, **method: Any) -> RunConfig:
    tiny.llama().config.save_pretrained(folder)
    return parse(RunConfig, {"model": str(folder), "method": {"rank": 4, **method}, "training": {"steps": 5}})


def losses(config: RunConfig, device: str, steps: int = 5) -> list[float]:
    """Of some steps on one batch from the same start."""
    task, attached = bound_task(config, TWO_CLASSES), attach_for_rehearsal(config, bound_task(config), tiny.llama().to(device))
    optimizer = AveragedAdamW(attached.groups(0), config.training)
    batch, found = task_batch(task, typical(task, 4, 24), device), []
    for _ in range(steps):
        with torch.no_grad(), attached.rows([(0, 0, -1)]):
            found.append(float(task.loss(attached.model, batch).objective))
        one_step(config, task, attached, optimizer, batch)
    return found


def test_float32_losses_are_the_cpus(tmp_path: Path) -> None:
    config = a_run(tmp_path)
    assert losses(config, "cuda") == pytest.approx(losses(config, "cpu"), rel=1e-4)


def test_memory_is_what_the_ledger_says(tmp_path: Path) -> None:
    config = a_run(tmp_path)
    task = bound_task(config, TWO_CLASSES)
    shape = typical(task, 64, 64)
    attached = attach_for_rehearsal(config, task, tiny.llama().to("cuda"))
    optimizer = AveragedAdamW(attached.groups(0), config.training)
    one_step(config, task, attached, optimizer, task_batch(task, shape, "cuda"))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    one_step(config, task, attached, optimizer, task_batch(task, shape, "cuda"))
    memory = peak(config, shape, device="cuda")
    assert memory.activations + memory.logits == pytest.approx(torch.cuda.max_memory_allocated() - before, rel=0.05)


def test_qlora_trains(tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path / "run", steps=4, method={"name": "qlora", "rank": 4})
    assert train(config, tmp_path / "out", quiet=True)["state"] == "complete"
