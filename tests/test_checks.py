"""Predicted beside measured: exact for runs that go well, a line on standard error for a ledger that is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from test_speed import RATES

from isolora.cost import crosscheck as checks
from isolora.cost import step_rates as speed
from isolora.store import Store
from isolora.training import train
from isolora.training import training_run as running

torch.set_num_threads(1)
RUNS: dict[str, dict[str, Any]] = {
    "lora": {"steps": 4},
    "accumulation": {"steps": 3, "accumulation": 2},
    "checkpointing": {"steps": 3, "gradient_checkpointing": True},
}


@pytest.mark.parametrize("kind", RUNS)
def test_a_runs_own_step_costs_what_the_ledger_says(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = train(tiny.from_files(tmp_path, **RUNS[kind]), tmp_path / "out", quiet=True)
    found = ended["checks"]
    assert found["flops"]["predicted"] == pytest.approx(ended["flops"], rel=1e-12)
    assert found["step_flops"]["predicted"] == pytest.approx(found["step_flops"]["measured"], rel=1e-9)
    assert found["step_memory_bytes"]["measured"] > 10_000
    assert abs(found["step_memory_bytes"]["relative_error"]) < 0.03  # of 100 kB, in which a single buffer counts
    assert "seconds" not in found
    assert "apart" not in capsys.readouterr().err


def test_members_of_a_stack(tmp_path: Path) -> None:
    store = Store(tmp_path / "out")
    config = tiny.from_files(tmp_path, steps=4)
    others = [config, config.model_copy(update={"seed": 1})]
    running.train_stack(others, store, "grid", quiet=True)
    noted = [json.loads(row["environment"])["checks"] for row in store.runs()]
    assert [set(found) for found in noted] == [{"flops", "step_flops"}] * 2
    assert noted[0]["step_flops"]["relative_error"] == pytest.approx(0, abs=1e-9)


def test_a_wrong_ledger_and_a_slow_machine_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger_of = running.ledger_of

    def dearer(*given: Any) -> Any:
        right = ledger_of(*given)
        return replace(right, coefficients=1.1 * right.coefficients)

    monkeypatch.setattr(running, "ledger_of", dearer)
    monkeypatch.setenv("ISOLORA_CACHE", str(tmp_path / "cache"))
    config = tiny.from_files(tmp_path, steps=3)
    speed.store(config, replace(RATES, seconds_per_micro_batch=1000.0))
    found = train(config, tmp_path / "out", quiet=True)["checks"]
    assert found["step_flops"]["relative_error"] == pytest.approx(0.1)
    assert found["seconds"]["predicted"] == pytest.approx(3000, rel=1e-3)
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in told if "apart" in line] == ["step flops", "seconds"]
    assert json.loads((tmp_path / "out" / "adapter" / "isolora.json").read_text())["checks"] == found


def test_a_step_that_cannot_be_rehearsed_ends_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any) -> Any:
        raise RuntimeError("no rule for aten.bincount\nand a traceback")

    monkeypatch.setattr(checks, "kept_peak", fails)
    ended = train(tiny.from_files(tmp_path, steps=3), tmp_path / "out", quiet=True)
    assert ended["state"] == "complete"
    assert set(ended["checks"]) == {"flops", "step_flops"}
    assert "not predicted: no rule for aten.bincount\n" in capsys.readouterr().err
