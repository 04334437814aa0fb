"""Rates of work: recovered from made-up timings, kept by machine and method."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny

from isolora.cost import step_rates as speed
from isolora.cost.step_rates import Speed, fit_rates
from isolora.ledger import GROUPS, PHASES, Flops

RATES = Speed("here", 0.01, (2e-11, 5e-11, 3e-11), 1e11, 0.0)


def some(layers: float, scores: float, head: float) -> Flops:
    """FLOPs spread over two phases."""
    table = np.zeros((len(PHASES), len(GROUPS)))
    for group, value in {"feed-forward": layers, "attention scores": scores, "head": head}.items():
        table[:2, GROUPS.index(group)] = value / 2
    return Flops(table)


STEPS = [some(1e9, 1e8, 2e8), some(1e9, 4e8, 2e8), some(1e9, 1e8, 5e7), some(2e8, 1e7, 4e7), some(5e7, 1e6, 1e7)]


def test_seconds_are_a_sum_over_kinds_of_work() -> None:
    assert RATES.seconds(some(1e9, 1e8, 2e8), 3) == pytest.approx(0.03 + 0.02 + 0.005 + 0.006)


def test_rates_are_found_again() -> None:
    found = fit_rates("here", STEPS, [RATES.seconds(step, 1) for step in STEPS], 1e11)
    assert found.largest_error < 1e-9
    assert found.seconds(some(7e8, 3e8, 1e7), 2) == pytest.approx(RATES.seconds(some(7e8, 3e8, 1e7), 2))


def test_no_work_takes_less_than_no_time() -> None:
    """Timings in which long sequences come out faster, as noise can make them."""
    seconds = [0.05, 0.02, 0.045, 0.02, 0.012]
    found = fit_rates("here", STEPS, seconds, 1e11)
    assert min(found.seconds_per_micro_batch, *found.seconds_per_flop) >= 0
    errors = [abs(found.seconds(step, 1) / measured - 1) for step, measured in zip(STEPS, seconds, strict=True)]
    assert found.largest_error == pytest.approx(max(errors))


def test_utilisation_by_hand() -> None:
    assert RATES.utilisation(some(1e9, 0, 0), 1) == pytest.approx(1e9 / 0.03 / 1e11)


def test_kept_for_the_same_machine_base_and_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOLORA_CACHE", str(tmp_path))
    config = tiny.run().model_copy(update={"model": tiny.save(tmp_path / "model", tiny.llama())})
    assert speed.stored(config) is None
    speed.store(config, RATES)
    assert speed.stored(config.model_copy(update={"seed": 5})) == RATES
    assert speed.stored(tiny.run(method={"rank": 7}).model_copy(update={"model": config.model})) is None
    next((tmp_path / "speed").iterdir()).write_text("{", encoding="utf-8")
    assert speed.stored(config) is None
