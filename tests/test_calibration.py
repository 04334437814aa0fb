"""Calibration: which shapes are timed, and that made-up timings give back the rates that made them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from test_speed import RATES

from isolora import models
from isolora.config import RunConfig, parse
from isolora.cost import calibration
from isolora.cost import step_rates as speed
from isolora.cost.estimate import cost
from isolora.cost.flops import rehearse
from isolora.ledger import BatchShape

torch.set_num_threads(1)


def a_run(folder: Path, **training: int) -> RunConfig:
    tiny.llama().config.save_pretrained(folder)
    return parse(RunConfig, {"model": str(folder), "training": {"steps": 1, "batch_tokens": 256, **training}})


def test_shapes_within_the_batch_and_the_models_positions(tmp_path: Path) -> None:
    config = a_run(tmp_path)
    shapes = calibration.steps(config, models.bound_task(config))
    assert [(s.rows, s.length, s.labels) for s in shapes] == [(4, 64, 252), (16, 16, 240), (16, 16, 48), (4, 16, 60), (2, 8, 14)]
    accumulated = calibration.steps(a_run(tmp_path, accumulation=4), models.bound_task(config))
    assert max(shape.tokens for shape in accumulated) == 64


def test_made_up_timings_give_back_their_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOLORA_CACHE", str(tmp_path / "cache"))
    config = a_run(tmp_path)
    price = rehearse(config)
    shapes = calibration.steps(config, models.bound_task(config))
    true = [RATES.seconds(price.flops(shape), 1) for shape in shapes]
    timings = iter([1.0] * len(shapes) + 3 * true)  # the first round is not counted

    def clock(act: Callable[[], object]) -> float:
        act()
        return next(timings, 1e-3)

    monkeypatch.setattr(calibration, "clock", clock)
    found = calibration.calibrate(config)
    assert next(timings, None) is None
    assert found == speed.stored(config)
    assert found.product_flops_per_second == pytest.approx(2 * 1024**3 / 1e-3)
    other = price.flops(BatchShape(3, 40, 100))
    assert found.seconds(other, 1) == pytest.approx(RATES.seconds(other, 1), rel=1e-6)
    assert cost(config, (3, 40)).to_json()["seconds"] == pytest.approx(
        RATES.seconds(price.flops(BatchShape(3, 40, 117)), 1), rel=1e-6
    )
