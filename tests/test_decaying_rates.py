"""Runs whose learning rate decays: what they measure on the way is no end of a shorter run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from isolora.fit import fit
from isolora.fit.decaying_rates import without_midway
from isolora.table import Table

LENGTHS = (1e4, 3e4, 9e4)
MARKS = (2.5e3, 5e3, 1e4, 2e4, 3e4, 6e4, 9e4)


def table(schedule: str, lengths=LENGTHS, sizes=(1e5, 3e5, 1e6), on_the_way=1.02, spaced=False) -> Table:
    """Runs of every size and length; before their end losses are higher than a run of so many tokens would end at."""
    rows = [
        (f"{n:.0f}-{length:.0f}", n, d, (1.0 if d == length else on_the_way) * (2 + 30 * n**-0.3 + 40 * d**-0.5))
        for n in sizes
        for length in lengths
        for d in MARKS
        if d <= length
    ]
    runs, n, d, loss = (np.array(column) for column in zip(*rows, strict=True))
    config = json.dumps({"training": {"schedule": schedule}}, separators=None if spaced else (",", ":"))
    text = {"run": runs.astype(object), "model": n.astype(str).astype(object), "config": np.full(len(n), config, dtype=object)}
    return Table({**text, "body_parameters": n, "tokens": d, "flops": 4 * n * d, "loss": loss})


@pytest.mark.parametrize("spaced", [False, True])
def test_ends_alone_are_fitted(spaced: bool) -> None:
    points = table("cosine", spaced=spaced)
    found = fit(points, law="additive", holdout="none", bootstrap=0)
    assert found.left_out == {"on the way of runs whose rate decays": len(points) - 9}
    assert found.points == 9
    at = {"n": 3e6, "d": 3e5}
    assert found.predict(at)[0] == pytest.approx(2 + 30 * 3e6**-0.3 + 40 * 3e5**-0.5, rel=1e-3)


def test_a_constant_rate_keeps_every_point() -> None:
    points = table("constant")
    assert without_midway(points) is points
    assert "config" in points
    bare = Table({name: column for name, column in points.columns.items() if name != "config"})
    assert without_midway(bare) is bare


@pytest.mark.parametrize(("schedule", "left"), [("linear", 36), ("cosine_with_restarts", 36), ("decaying", 36), ("constant", 0)])
def test_a_column_says_so_too(schedule: str, left: int) -> None:
    points = table("constant")
    named = {name: column for name, column in points.columns.items() if name != "config"}
    found = without_midway(Table({**named, "schedule": np.full(len(points), schedule, dtype=object)}))
    assert sum(found.left_out.values()) == left == len(points) - len(found)


def test_too_few_ends_are_said() -> None:
    points = table("linear", lengths=(9e4,))
    found = without_midway(points)
    assert (found.columns is points.columns, found.left_out) == (True, {})
    [note] = found.notes
    assert note == (
        "the rate of 3 runs decays over their budget, so that points on the way are not where shorter runs end, and 3 ends at 1"
        " lengths are too few for a law; train several lengths, or set training.schedule: constant"
    )
    assert note in fit(points, law="additive", holdout="none", bootstrap=0).remarks


def test_points_before_training_and_runs_of_a_constant_rate_stay() -> None:
    decaying, constant = table("linear"), table("constant", lengths=(9e4,), sizes=(5e5,))
    columns = {name: np.concatenate([decaying[name], constant[name]]) for name in decaying.columns}
    both = Table(
        {**columns, "run": np.array([f"{run}-{k >= len(decaying)}" for k, run in enumerate(columns["run"])], dtype=object)}
    )
    both.columns["tokens"][0] = 0.0
    kept = without_midway(both)
    assert len(kept) == 9 + len(constant) + 1
    assert 0.0 in kept["tokens"]
