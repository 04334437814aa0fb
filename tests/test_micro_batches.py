"""A step's micro-batches where nobody says how many: as many as a CPU's cache likes, one on an accelerator."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from isolora import Store, train
from isolora.cost.calibration import steps as timed_shapes
from isolora.cost.estimate import cost
from isolora.models import bound_task
from isolora.runs import micro_batches
from isolora.runs.micro_batches import accumulation


@pytest.fixture
def little_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of tests are short."""
    for module in ("isolora.runs.micro_batches", "isolora.training.stack", "isolora.training.evaluator"):
        monkeypatch.setattr(f"{module}.CPU_TOKENS", 64)


@pytest.mark.parametrize(("batch_tokens", "expected"), [(512, 1), (2048, 1), (2049, 2), (4096, 2), (100_000, 49)])
def test_a_cpus_cache_decides(batch_tokens: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    training = tiny.run(batch_tokens=batch_tokens).training
    assert accumulation(training) == expected
    assert accumulation(training.model_copy(update={"accumulation": 3})) == 3
    monkeypatch.setattr(micro_batches, "device", lambda: "cuda")
    assert accumulation(training) == 1


def test_runs_keep_their_names() -> None:
    """Of stores in which one micro-batch was what nobody asked for."""
    assert tiny.run().identity() == tiny.run(accumulation=1).identity() != tiny.run(accumulation=2).identity()


@pytest.mark.usefixtures("little_cache")
@pytest.mark.parametrize("trainer", ["native", "hf"])
def test_the_same_run_in_parts_that_are_counted(trainer: str, tmp_path: Path) -> None:
    """Losses of the whole batch, FLOPs and memory of the parts, as predicted."""
    config = tiny.from_files(tmp_path, steps=6, batch_tokens=256, evaluate_from=100, trainer=trainer)
    whole = config.model_copy(update={"training": config.training.model_copy(update={"accumulation": 1})})
    parts, once = (train(each, tmp_path / name, quiet=True) for each, name in ((config, "parts"), (whole, "once")))
    losses, expected = ([point["loss"] for point in Store(tmp_path / name).points()] for name in ("parts", "once"))
    assert losses == pytest.approx(expected, rel=1e-4)
    assert parts["flops"] == cost(config).flops.total
    assert parts["tokens"] == once["tokens"]
    assert cost(config).memory.activations < 0.5 * cost(whole).memory.activations


@pytest.mark.usefixtures("little_cache")
def test_a_step_of_a_given_shape_is_one_pass(tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path, batch_tokens=256)
    whole = config.model_copy(update={"training": config.training.model_copy(update={"accumulation": 1})})
    assert cost(config, shape=(8, 16)).memory == cost(whole, shape=(8, 16)).memory


@pytest.mark.usefixtures("little_cache")
def test_seconds_are_measured_on_the_parts(tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path, batch_tokens=256)
    assert all(shape.rows * shape.length <= 64 for shape in timed_shapes(config, bound_task(config)))
