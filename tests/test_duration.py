"""Seconds and money of a run elsewhere: by hand, and never from a utilisation that nobody has given or measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from test_speed import RATES, some

from isolora.config import RunConfig
from isolora.cost import step_rates as speed
from isolora.cost.accelerators import HERE, Place
from isolora.cost.time import predicted_seconds
from isolora.display import time_in_words
from isolora.errors import ConfigError

FLOPS = some(3.6e15, 0, 0)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setenv("ISOLORA_CACHE", str(tmp_path))
    return tiny.run().model_copy(update={"model": tiny.save(tmp_path / "model", tiny.llama())})


def test_peak_rate_and_utilisation_by_hand(config: RunConfig) -> None:
    found = predicted_seconds(None, "float32", FLOPS, 1, Place("A100-80GB", utilisation=0.4, price_per_hour=2.0))
    assert found is not None
    assert found.seconds == pytest.approx(3.6e15 / (0.4 * 19.5e12))
    assert found.price == pytest.approx(2 * found.seconds / 3600)
    assert "A100-80GB at 0.4 of 19.5 TFLOP/s in float32, as given" in str(found)


def test_here_only_when_measured(config: RunConfig) -> None:
    assert predicted_seconds(speed.stored(config), "float32", FLOPS, 7, HERE) is None
    with pytest.raises(ConfigError, match="--on: H100 needs --utilisation U, or one measured here with --calibrate"):
        predicted_seconds(speed.stored(config), "float32", FLOPS, 7, Place("H100"))
    speed.store(config, RATES)
    measured = speed.stored(config)
    here, there = (predicted_seconds(measured, "float32", FLOPS, 7, place) for place in (HERE, Place("H100")))
    assert here is not None
    assert there is not None
    assert here.seconds == RATES.seconds(FLOPS, 7)
    assert there.seconds == pytest.approx(3.6e15 / (RATES.utilisation(FLOPS, 7) * 67e12))
    assert "as measured on here, assumed to carry over" in str(there)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"on": "H100", "utilisation": 1.5}, "--utilisation: a share above 0 and up to 1"),
        ({"utilisation": 0.5}, "--utilisation: of which accelerator"),
        ({"price_per_hour": -1.0}, "--price-per-hour: 0 or more"),
    ],
)
def test_what_makes_no_sense_is_one_line(given: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Place(**given)
    assert "\n" not in str(caught.value)


def test_words() -> None:
    assert [time_in_words(seconds) for seconds in (0.0123, 100, 600, 36000, 345600)] == [
        "0.0123 s",
        "100 s",
        "10 min",
        "10.0 h",
        "4.0 days",
    ]
