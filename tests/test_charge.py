"""A budget that pays for the study too."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from isolora.errors import ConfigError
from isolora.plan import Limits, Recommendation, asked_plan, charged, parse_budget
from isolora.table import Table

TOKENS = np.geomspace(1e5, 1.6e6, 6)


def study() -> Table:
    """Two runs each of three bases, six points a run, the last of them at 1.6e6 tokens."""
    sizes = np.repeat([1e6, 3e6, 1e7], 12)
    tokens = np.tile(TOKENS, 6)
    run = np.repeat([f"r{k}" for k in range(6)], 6)
    loss = 1.5 + 60 * sizes**-0.3 + 40 * tokens**-0.3
    columns = {"body_parameters": sizes, "model": sizes.astype(int).astype(str), "tokens": tokens, "flops": 6 * sizes * tokens}
    return Table({**columns, "run": run, "loss": loss, "seconds": tokens / 1e4})


SPENT = 2 * 6 * (1e6 + 3e6 + 1e7) * 1.6e6


def test_what_the_runs_cost_is_taken_off() -> None:
    """Each run counts once, with its last point; the proof is what the budget is for."""
    table = study()
    left, told = charged(parse_budget("1e15flops"), table)
    assert left.amount == pytest.approx(1e15 - SPENT)
    assert (
        told
        == "the study's 6 runs took 2.69e+14 FLOPs of the budget of 1e+15 FLOPs; 7.31e+14 FLOPs of it is left, and planned for"
    )
    assert charged(parse_budget("1h"), table)[0].amount == pytest.approx(3600 - 6 * 160)
    proof = np.where(table["run"] == "r5", "verify", "grid")
    staged = Table({**table.columns, "stage": proof})
    assert charged(parse_budget("1e15flops"), staged)[0].amount == pytest.approx(1e15 - SPENT + 6e7 * 1.6e6)


def test_the_plan_is_that_for_what_is_left() -> None:
    left = charged(parse_budget("1e15flops"), study())[0]
    with_study = asked_plan(study(), "1e15flops", None, None, Limits(), bootstrap=50, charge_study=True)
    without = asked_plan(study(), f"{left.amount!r}flops", None, None, Limits(), bootstrap=50)
    assert isinstance(with_study, Recommendation)
    assert isinstance(without, Recommendation)
    assert (with_study.model, with_study.tokens) == (without.model, without.tokens)
    assert with_study.warnings[0].startswith("the study's 6 runs took 2.69e+14 FLOPs")


def test_what_cannot_be_charged_is_refused() -> None:
    table = study()
    untold = Table({name: column for name, column in table.columns.items() if name != "seconds"})
    for given, budget, words in (
        (table, "1e14flops", "all of the budget of 1e\\+14 FLOPs"),
        (untold, "1h", "add a column seconds"),
        (dataclasses.replace(table, names_runs=False), "1e15flops", "add a column run"),
    ):
        with pytest.raises(ConfigError, match=words):
            charged(parse_budget(budget), given)
    with pytest.raises(ConfigError, match="takes what the runs cost off a --budget"):
        asked_plan(table, None, "loss=2.1", None, Limits(), charge_study=True)
