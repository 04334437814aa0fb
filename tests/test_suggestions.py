"""Suggestions by Optuna: repeatable, better than chance, and of the types that were asked for."""

from __future__ import annotations

import json

import numpy as np
import pytest
from studies import RANK, RATE, SPACE

from isolora.config import SearchConfig, parse
from isolora.store import DONE, Trial
from isolora.study.suggestions import suggest

pytest.importorskip("optuna")


def told(search: SearchConfig, count: int) -> list[Trial]:
    """Trials of a parabola in log10 of the rate, least at 1e-2; rank 2 adds a little."""
    rows: list[Trial] = []
    while len(rows) < count:
        for values in suggest(search, rows, 2):
            loss = (np.log10(values[RATE]) + 2) ** 2 + 0.1 * (values[RANK] == 2)
            rows.append(Trial("s", len(rows), 0, str(len(rows)), json.dumps(values), DONE, float(loss)))
    return rows


def test_tpe_closes_in_and_chance_does_not() -> None:
    space = {**SPACE, RATE: {"low": 1e-6, "high": 1e2, "log": True}}
    distances = {}
    for sampler in ("tpe", "random"):
        search = parse(SearchConfig, {"space": space, "sampler": sampler})
        rows = told(search, 40)
        assert rows == told(search, 40), "the same seed suggests the same"
        distances[sampler] = np.median([row.value for row in rows[20:]])
    assert distances["tpe"] < 0.5 * distances["random"]
    other = parse(SearchConfig, {"space": space, "seed": 1})
    assert suggest(other, [], 2) != suggest(parse(SearchConfig, {"space": space}), [], 2)


def test_choices_keep_their_types() -> None:
    space = {"a": [True, 1, None, [1, 2]], "b": {"low": 1, "high": 64, "log": True}}
    search = parse(SearchConfig, {"space": space, "sampler": "random"})
    drawn = suggest(search, [], 40)
    assert {json.dumps(values["a"]) for values in drawn} == {"true", "1", "null", "[1, 2]"}
    assert all(isinstance(values["b"], int) and 1 <= values["b"] <= 64 for values in drawn)
    assert np.median([values["b"] for values in drawn]) < 20, "evenly in the logarithm: half lie below 8"


def test_optuna_speaks_afterwards_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    suggest(parse(SearchConfig, {"space": SPACE}), [], 1)
    assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    assert "created" not in capfd.readouterr().err
