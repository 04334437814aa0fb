"""Checkpoints are whole or absent, and an exact resume leaves no trace."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from isolora.store import DONE, Point
from isolora.training import checkpoint
from isolora.training.stack import Stack

torch.set_num_threads(1)


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"a": torch.full((3,), value), "scalar": torch.tensor(value), "bytes": torch.tensor([1, 2], dtype=torch.uint8)}


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_is_found_and_the_one_before_it_kept(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    for step in (5, 10, 15):
        checkpoint.save(tmp_path, step, tensors(step), {"step": step})
    found, state = checkpoint.newest(tmp_path) or ({}, {})
    assert state == {"step": 15}
    assert found["a"].tolist() == [15, 15, 15]
    assert found["scalar"].shape == ()
    assert steps(tmp_path) == ["step-000000010", "step-000000015"]


@pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.STATE, checkpoint.MANIFEST])
@pytest.mark.parametrize("damage", ["flipped", "torn", "missing"])
def test_a_damaged_one_is_passed_over(name: str, damage: str, tmp_path: Path) -> None:
    for step in (5, 10):
        checkpoint.save(tmp_path, step, tensors(step), {"step": step})
    path = tmp_path / "step-000000010" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"flipped": bytes(content), "torn": path.read_bytes()[:10], "missing": b""}[damage])
    if damage == "missing":
        path.unlink()
    assert (checkpoint.newest(tmp_path) or ({}, {}))[1] == {"step": 5}
    # Going on from 5, the next checkpoint stands, and the damaged one never wins over it.
    checkpoint.save(tmp_path, 7, tensors(7), {"step": 7})
    assert (checkpoint.newest(tmp_path) or ({}, {}))[1] == {"step": 7}
    assert steps(tmp_path) == ["step-000000005", "step-000000007"]


@pytest.mark.parametrize("at", ["save_file", "sha256", "_sync"])
def test_interrupted_while_writing_leaves_the_older_one(at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, 5, tensors(5), {"step": 5})
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, at, interrupt)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, 10, tensors(10), {"step": 10})
    assert (checkpoint.newest(tmp_path) or ({}, {}))[1] == {"step": 5}
    checkpoint.save(tmp_path, 10, tensors(10), {"step": 10})
    assert steps(tmp_path) == ["step-000000005", "step-000000010"], "nothing half-written stays"


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_killed_before_the_rename_leaves_the_older_one(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 5, tensors(5), {"step": 5})
    code = """
import os, signal, sys, torch
from pathlib import Path
from isolora.training import checkpoint
Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save(Path(sys.argv[1]), 10, {"a": torch.ones(3)}, {"step": 10})
"""
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(steps(tmp_path)) == 2
    assert (checkpoint.newest(tmp_path) or ({}, {}))[1] == {"step": 5}


def test_clear(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "run", 1, tensors(1), {})
    checkpoint.clear(tmp_path / "run")
    checkpoint.clear(tmp_path / "run")
    assert steps(tmp_path) == []


class Stopped(Exception):
    """Stands in for a kill between two steps."""


MEMBERS = [
    tiny.run(seed=1, method={"rank": 2, "dropout": 0.3, "b_learning_rate_ratio": 4}, steps=14, accumulation=2),
    tiny.run(seed=2, method={"rank": 4}, steps=11, learning_rate=3e-2, schedule="cosine"),
    tiny.run(seed=3, method={"rank": 2}, tokens=700, weight_decay=0.1),
]


def in_pieces(
    make: Callable[[list[Point]], Stack], folder: Path, stops: Sequence[int | None], checkpoint_seconds: float
) -> tuple[Stack, list[Point]]:
    """The last stack and all points of a training that is cut off after each of these steps; None lets it end."""
    points: list[Point] = []
    for stop in stops:
        pieces = make(points)

        def on_step(stack: Stack, stop: int | None = stop) -> None:
            if stack.steps == stop:
                raise Stopped

        with nullcontext() if stop is None else pytest.raises(Stopped):
            tiny.train(pieces, folder, checkpoint_seconds, on_step)
    return pieces, points


def comparable(points: list[Point]) -> dict[tuple[str, int], dict[str, Any]]:
    """Points as the store keeps them, without what clocks and the process decide."""
    rows = [dataclasses.asdict(point) for point in points]
    return {(row["run"], row["tokens"]): {**row, "seconds": 0, "peak_memory_bytes": 0} for row in rows}


def weights(stack: Stack) -> list[torch.Tensor]:
    return [
        tensor for member in stack.members for group in member.optimizer.groups for tensor in (group.weights.data, group.average)
    ]


@pytest.mark.parametrize("configs", [MEMBERS[:1], MEMBERS], ids=["alone", "stack"])
def test_exact_resume(configs: Any, tmp_path: Path) -> None:
    """Stopped twice, once before the first checkpoint: the same points and the same weights, bit for bit."""
    expected: list[Point] = []
    whole = tiny.stack(configs, expected)
    tiny.train(whole, tmp_path / "whole", 1e9)
    assert all(member.progress.state == DONE for member in whole.members)

    pieces, points = in_pieces(lambda points: tiny.stack(configs, points), tmp_path / "pieces", (1, 5, 9, None), 1e9)
    assert comparable(points) == comparable(expected)
    assert all(torch.equal(one, other) for one, other in zip(weights(pieces), weights(whole), strict=True))


def test_resume_from_a_checkpoint_at_every_step(tmp_path: Path) -> None:
    """checkpoint_seconds 0: what is saved between two evaluations is as exact."""
    expected: list[Point] = []
    tiny.train(tiny.stack(MEMBERS, expected), tmp_path / "whole", 1e9)
    points: list[Point] = []
    while True:
        pieces = tiny.stack(MEMBERS, points)
        before = checkpoint.newest(tmp_path / "pieces")

        def on_step(stack: Stack, start: int = before[1]["steps"] if before else 0) -> None:
            if stack.steps == start + 4:
                raise Stopped

        try:
            tiny.train(pieces, tmp_path / "pieces", 0, on_step)
            break
        except Stopped:
            continue
    assert comparable(points) == comparable(expected)


def test_another_stacks_checkpoint_is_not_taken(tmp_path: Path) -> None:
    tiny.train(tiny.stack(MEMBERS[:1]), tmp_path, 1e9)
    other = tiny.stack(MEMBERS[1:2])
    other.names = ["someone else"]
    tiny.loop(other, tmp_path).checkpointer.resume(other)
    assert other.steps == 0
