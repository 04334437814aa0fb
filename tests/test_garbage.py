"""When Python looks for circular garbage: seldom while a command imports, as usual once weights are loaded."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny

from isolora import garbage, models
from isolora.cli import main
from isolora.config import RunConfig


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = gc.get_threshold()
    gc.unfreeze()  # whatever another test has frozen
    yield
    gc.set_threshold(*before)
    gc.unfreeze()
    gc.enable()


def load(config: RunConfig) -> None:
    models.load_base(config, models.bound_task(config))


def test_a_command_looks_seldom_until_weights_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []
    monkeypatch.setattr(garbage.atexit, "register", ended.append)
    monkeypatch.setattr(sys, "argv", ["isolora", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert gc.get_threshold() == (50_000, 20, 50)
    assert ended == [gc.freeze], "what is there at the end is not looked through"
    assert gc.get_freeze_count() == 0
    load(tiny.from_files(tmp_path))
    assert gc.get_threshold() == garbage.AS_USUAL
    assert gc.get_freeze_count() > 50_000, "the libraries"
    kept = gc.get_freeze_count()
    load(tiny.from_files(tmp_path))
    assert gc.get_freeze_count() <= kept, "the first base, which another may replace, is not kept"


def test_thresholds_of_a_program_of_ones_own_are_left_alone(tmp_path: Path) -> None:
    gc.set_threshold(1234, 5, 6)
    load(tiny.from_files(tmp_path))
    assert gc.get_threshold() == (1234, 5, 6)
    assert gc.get_freeze_count() == 0
