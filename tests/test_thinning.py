"""Large tables: points that share a place cost one, too many are thinned by whole runs and said, and the fit stays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isolora import laws
from isolora.fit import fit
from isolora.fit import repeats as repeats_of
from isolora.fit.bootstrap import replicates
from isolora.fit.fit_points import Points, from_table
from isolora.fit.optimum import Optimum, search_fit
from isolora.fit.repeats import repeats
from isolora.fit.thinning import MOST_POINTS, thinned
from isolora.laws import bunches
from isolora.table import Table

SIZES = 10_000.0 * 2 ** np.arange(6)


def large(runs: int, lengths: int, points: int = 1, jitter: float = 0.0) -> Table:
    """So many runs of six sizes and `lengths` largest token counts, the next longer by half each."""
    rng, run = np.random.default_rng(0), np.repeat(np.arange(runs), points)
    size = SIZES[run % 6]
    tokens = 4000 * 1.5 ** (run % lengths) * np.tile(np.geomspace(0.1 if points > 1 else 1, 1, points), runs)
    tokens = np.round(tokens * (1 + jitter * rng.random(len(run))))
    loss = (2 + 30 * size**-0.3 + 20 * tokens**-0.35) * np.exp(0.004 * rng.standard_normal(len(run)))
    names = np.char.add("r", run.astype(str)).astype(object)
    columns = {"run": names, "body_parameters": size, "tokens": tokens, "flops": 6 * size * tokens, "loss": loss}
    return Table(columns)


def fitted(points: Points, law: str = "interacting") -> Optimum:
    return search_fit(laws.resolve(law), points, np.ones((1, len(points))))


@pytest.mark.parametrize("law", ["interacting", "rectified"])
def test_places_give_the_fit_of_single_points(law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    points = from_table(large(1500, 17))
    together = fitted(points, law)
    assert together.problem.repeats is not None
    assert (
        len(together.problem.repeats.first) == len({(n, d) for n, d in zip(*map(points.columns.get, "nd"), strict=True)}) == 102
    )
    monkeypatch.setattr(repeats_of, "_FEWEST_POINTS", 10_000)
    alone = fitted(points, law)
    assert alone.problem.repeats is None
    np.testing.assert_allclose(together.objective, alone.objective, rtol=1e-9)
    np.testing.assert_allclose(together.theta, alone.theta, rtol=1e-4)
    np.testing.assert_allclose(replicates(together, 20, 3).theta, replicates(alone, 20, 3).theta, rtol=1e-3)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_sums_and_values_of_places_are_those_of_their_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = {"n": rng.integers(1, 5, 1200) * 1.0, "d": rng.integers(1, 9, 1200) * 1.0}
    found, values = repeats(columns), rng.normal(size=(2, 1200))
    assert found is not None
    at = found.places(columns)
    for place, total in enumerate(found.total(values[:, found.order]).T):
        here = (columns["n"] == at["n"][place]) & (columns["d"] == at["d"][place])
        np.testing.assert_allclose(total, values[:, here].sum(axis=1), atol=1e-12)
    spread = found.spread(at["d"][None, :])[0]
    np.testing.assert_array_equal(spread, columns["d"][found.order])


def test_single_points_are_left_alone() -> None:
    columns = {"n": np.arange(1.0, 1201.0)}
    assert repeats(columns) is None
    assert repeats({"n": np.ones(999)}) is None


def test_ten_thousand_runs_at_few_places_are_all_fitted() -> None:
    points = from_table(large(10_000, 17))
    assert thinned(points) is points


def test_too_many_points_are_thinned_by_whole_runs_and_said() -> None:
    table = large(1200, 11, points=8, jitter=0.3)
    points = from_table(table)
    kept = thinned(points)
    assert 0.8 * MOST_POINTS < len(kept) < 1.2 * MOST_POINTS
    assert set(np.bincount(kept.run)) == {8}, "runs are whole"
    largest = {size: points.flops[points.columns["n"] == size].max() for size in SIZES}
    assert {size: kept.flops[kept.columns["n"] == size].max() for size in SIZES} == largest
    said = fit(table, law="additive", bootstrap=50).left_out
    missing, runs = len(points) - len(kept), 1200 - len(kept.names)
    assert said[f"beyond the 2,000 points that a fit takes: {runs} of 1,200 runs, evenly over compute"] == missing


def test_a_rare_size_keeps_its_runs() -> None:
    table = large(1200, 11, points=8, jitter=0.3)
    rare = np.isin(table["run"], [f"r{6 * k}" for k in range(5)])
    sizes = np.where(rare, 5_000.0, np.maximum(table["body_parameters"], 20_000.0))
    kept = thinned(from_table(Table({**table.columns, "body_parameters": sizes})))
    assert (kept.columns["n"] == 5_000).sum() == 5 * 8


def test_a_thinned_fit_foretells_what_all_points_do() -> None:
    table = large(700, 11, points=8, jitter=0.3)
    found = fit(table, law="additive", bootstrap=200)
    place = {"n": 1e6, "d": 1e6}
    truth = 2 + 30 * 1e6**-0.3 + 20 * 1e6**-0.35
    assert found.predict(place)[0] == pytest.approx(truth, rel=0.005)
    low, high = found.interval(place)
    assert low[0] < truth < high[0]


def test_one_long_run_is_thinned_over_its_tokens() -> None:
    """A law could not be fitted at all, as if the run had one token count: each step was near its neighbours."""
    tokens = 1000.0 + 50 * np.arange(8000)
    loss = (2 + 20 * tokens**-0.3) * np.exp(0.003 * np.random.default_rng(1).standard_normal(8000))
    table = Table({"run": np.full(8000, "r", dtype=object), "tokens": tokens, "loss": loss})
    kept = thinned(from_table(table))
    assert len(kept) <= MOST_POINTS
    assert kept.columns["d"][[0, -1]].tolist() == [1000, 400_950]
    assert np.diff(np.log(kept.columns["d"]))[-100:].max() < 0.01
    found = fit(table, bootstrap=50)
    assert found.left_out["beyond the 2,000 points that a fit takes: parts of long runs, evenly over tokens"] == 8000 - len(kept)
    assert found.predict({"d": 1e6})[0] == pytest.approx(2 + 20 * 1e6**-0.3, rel=0.02)


def test_values_without_a_gap_are_no_single_bunch() -> None:
    steps = np.arange(0, 1.0, 0.01)
    assert bunches(steps, 0.05, 0.2).max() == 4
    assert bunches(np.array([0, 0.01, 0.03, 0.5, 0.51]), 0.05, 0.2).tolist() == [0, 0, 0, 1, 1]
    assert bunches(np.array([0.0]), 0.05, 0.2).tolist() == [0]


def test_a_fit_of_few_points_says_nothing_of_thinning() -> None:
    found = fit(large(60, 9), law="additive", bootstrap=10)
    assert not any("beyond the" in reason for reason in found.left_out)
    assert found.points == 60
