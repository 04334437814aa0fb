"""The examples: one for each task, and each worth its training on real data."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_examples import EXAMPLES, TESTED, gain, measured

from isolora import models, registry
from isolora.config import load_run
from isolora.errors import ConfigError

AIMS = {"token-classification": 0.95, "sequence-classification": 0.55}
BETTER_BY = 1.3
"""Times the untrained model's ROUGE-L."""


def test_every_task_has_an_example() -> None:
    assert {load_run(EXAMPLES / f"{name}.yaml").task.name for name in TESTED} == set(registry.names("task"))


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTED)
def test_an_example_beats_its_floor(name: str, tmp_path: Path) -> None:
    try:
        models.fingerprint(load_run(EXAMPLES / f"{name}.yaml").model)
    except ConfigError:
        pytest.skip("its model comes with make models")
    row = measured(name, tmp_path)
    assert gain(row, "untrained") > 0, row
    assert gain(row, "floor") > 0 or row["floor"] == row["untrained"], row
    assert row["score"] >= AIMS.get(name, 0), row
    if name == "summarization":
        assert row["score"] >= BETTER_BY * row["untrained"], row
