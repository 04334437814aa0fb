"""How runs go on beyond the tokens seen: the slope of their ends, which fades as fast as the curves themselves show."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from isolora.fit import Fit, best_learning_rates, fit
from isolora.fit.continuation import Continuation, End, continuation
from isolora.fit.fit_points import from_table
from isolora.fit.interval import MOST_ALONG
from isolora.table import Table, from_columns

LARGEST = 4.4e5
LAST = 32_000


def loss(size: float, tokens: np.ndarray, floor: float, slope: float, start: float = 2_000) -> np.ndarray:
    """Steep up to `start` tokens, then a power of the tokens above a floor."""
    return floor + 12 * size**-0.07 * (tokens / 1e4) ** -slope * (1 + (start / tokens) ** 3)


def curves(floor: float, slope: float, points: int = 9, noise: float = 0.002, **columns: str) -> Table:
    """Six runs of three sizes and two seeds, from 4,000 to 32,000 tokens."""
    luck = np.random.default_rng(7)
    tokens = np.geomspace(4_000, LAST, points)
    rows = [
        {
            "run": f"{size}-{seed}",
            "body_parameters": size,
            "tokens": d,
            "loss": float(value * np.exp(luck.normal(0, noise))),
            **columns,
        }
        for size in (5e4, 1.5e5, LARGEST)
        for seed in (0, 1)
        for d, value in zip(tokens, loss(size, tokens, floor, slope), strict=True)
    ]
    return Table({name: np.array([row[name] for row in rows]) for name in rows[0]})


def found(table: Table) -> Continuation | None:
    return continuation(from_table(best_learning_rates(table)))


def missed(fitted: Fit, factor: float, floor: float, slope: float) -> float:
    place = {"n": LARGEST, "d": factor * LAST}
    return float(fitted.predict(place)[0] / loss(LARGEST, np.array([place["d"]]), floor, slope)[0] - 1)


@pytest.mark.parametrize(("floor", "slope", "decay"), [(0.0, 0.075, (0.0, 0.2)), (6.0, 0.4, (0.2, 0.35))])
def test_decay_is_measured(floor: float, slope: float, decay: tuple[float, float]) -> None:
    """Without a floor the slope stays; with one it fades by what of the exponent the floor leaves, here 0.27."""
    at = found(curves(floor, slope))
    assert at is not None
    assert decay[0] <= at.decay <= decay[1]
    expected = -np.diff(np.log(loss(LARGEST, np.array([LAST, 1.01 * LAST]), floor, slope)))[0] / np.log(1.01)
    own = next(end for end in at.ends if end.place["n"] == pytest.approx(np.log(LARGEST)))
    assert own.tokens == pytest.approx(LAST)
    assert own.slope == pytest.approx(expected, rel=0.12)


def test_a_run_that_is_measured_at_every_step_has_its_own_slope_at_the_end() -> None:
    """Each of its points is as near to the next as two that count as one: its second half was one point."""
    dense, sparse = found(curves(0.0, 0.075, points=400)), found(curves(0.0, 0.075))
    assert dense is not None
    assert sparse is not None
    assert [end.slope for end in dense.ends] == pytest.approx([end.slope for end in sparse.ends], rel=0.12)


@pytest.mark.parametrize(("floor", "slope"), [(0.0, 0.075), (6.0, 0.4)])
@pytest.mark.parametrize("factor", [4.0, 10.0])
def test_straight_and_bending_curves_are_both_foretold(floor: float, slope: float, factor: float) -> None:
    fitted = fit(curves(floor, slope), bootstrap=100)
    assert abs(missed(fitted, factor, floor, slope)) < (0.02 if factor < 5 else 0.04)
    place = {"n": LARGEST, "d": factor * LAST}
    low, high = fitted.interval(place)
    assert low[0] < loss(LARGEST, np.array([place["d"]]), floor, slope)[0] < high[0]
    assert high[0] / low[0] < 1.25, "it is no excuse to say nothing"


def test_a_law_alone_bends_where_the_curves_do_not() -> None:
    fitted = fit(curves(0.0, 0.075), bootstrap=0)
    alone = dataclasses.replace(fitted, continuation=None)
    assert missed(alone, 10.0, 0.0, 0.075) > 1.4 * abs(missed(fitted, 10.0, 0.0, 0.075))
    inside = {"n": LARGEST, "d": 16_000.0}
    assert fitted.predict(inside) == alone.predict(inside)
    assert fitted.interval(inside) == alone.interval(inside)


def test_the_fall_is_the_integral_of_the_fading_slope() -> None:
    at = Continuation((End({"n": 10.0}, 1_000.0, 0.1),), 0.5, (1e-4, 1e-3, 4e-2))
    columns = {"n": np.exp([10.0, 12.0, 10.0]), "d": np.array([2_000.0, 500.0, 10_000.0]), "c": np.array([1e9, 1e9, 1e9])}
    beyond = at.fall(columns)
    x = np.log([2.0, 1.0, 10.0])
    np.testing.assert_allclose(beyond.fall, 0.1 * (1 - np.exp(-0.5 * x)) / 0.5)
    np.testing.assert_allclose(beyond.seen["d"], [1_000, 500, 1_000])
    np.testing.assert_allclose(beyond.seen["c"], 1e9 * np.exp(-x))
    grid = np.linspace(0, x[2], 10_001)
    by_slope, by_decay = np.trapezoid(np.exp(-0.5 * grid), grid), -0.1 * np.trapezoid(grid * np.exp(-0.5 * grid), grid)
    expected = by_slope**2 * 1e-4 + 2 * by_slope * by_decay * 1e-3 + by_decay**2 * 4e-2
    assert beyond.error[2] == pytest.approx(np.sqrt(expected), rel=1e-3)
    assert beyond.error[1] == 0.0


def test_the_nearest_curves_are_of_the_same_method_first() -> None:
    own = End({"n": np.log(1e6), "m:lora": 1.0}, 1_000.0, 0.1)
    other = End({"n": np.log(1e5), "m:lora": 0.0}, 5_000.0, 0.2)
    columns = {"n": np.array([1e5]), "d": np.array([8_000.0]), "m:lora": np.array([np.e])}
    away, slope = Continuation((own, other), 0.0, (0.0, 0.0, 0.0)).beyond(columns)
    assert (away[0], slope[0]) == (pytest.approx(np.log(8)), 0.1)


def test_single_points_few_points_repeats_and_rising_losses_have_no_continuation() -> None:
    table = curves(0.0, 0.075)
    spread = np.geomspace(1, 30, len(table))
    single = {"run": np.array([f"{k}" for k in range(len(table))]), "body_parameters": table["body_parameters"] * spread}
    assert found(Table({**table.columns, **single})) is None
    assert found(curves(0.0, 0.075, points=4)) is None
    assert found(Table({**table.columns, "unique_tokens": np.minimum(table["tokens"], 8_000.0)})) is None
    assert found(Table({**table.columns, "loss": 1 / table["loss"]})) is None


def test_runs_of_one_size_that_are_single_points_are_a_curve() -> None:
    table = curves(0.0, 0.075)
    single = Table({**table.columns, "run": np.array([f"{k}" for k in range(len(table))])})
    at = found(single)
    assert at is not None
    assert len(at.ends) == 3


def test_it_is_written_and_read_back() -> None:
    fitted = fit(curves(0.0, 0.075), bootstrap=10)
    assert fitted.continuation is not None
    assert Fit.loads(fitted.dumps()).continuation == fitted.continuation


def test_errors_along_a_curve_are_a_share_of_its_slope_at_most() -> None:
    """Whatever the laws missed between sizes: a drift above 0.2 of the slope counts as that."""
    flat = fit(curves(0.0, 0.015, noise=0.0003), bootstrap=50)
    assert flat.continuation is not None
    slope = next(end.slope for end in flat.continuation.ends if end.place["n"] == pytest.approx(np.log(LARGEST)))
    assert MOST_ALONG * slope < 0.004
    place = {"n": LARGEST, "d": 4.0 * LAST}
    wide, at_most, less = (dataclasses.replace(flat, drift=drift).interval(place) for drift in (0.02, MOST_ALONG * slope, 0.0))
    np.testing.assert_allclose(wide, at_most, rtol=1e-6)
    assert less[1][0] < at_most[1][0]


def in_one_order(table: Table, seeds: int) -> Table:
    """The same runs, of so many seeds, all of which go up and down with the batches that come at some tokens."""
    tokens, place = np.unique(table["tokens"], return_inverse=True)
    number = np.unique(table["run"], return_inverse=True)[1] % seeds
    common = np.random.default_rng(3).normal(0, 0.01, (seeds, len(tokens)))
    return Table({**table.columns, "loss": table["loss"] * np.exp(common[number, place]), "seed": number.astype(float)})


def test_runs_of_one_seed_count_as_one() -> None:
    """Six curves of one data order say as much of their slope as one, and the interval is wider for it."""
    one, two, own = (in_one_order(curves(0.0, 0.075), seeds) for seeds in (1, 2, 6))
    unknown = Table({name: column for name, column in one.columns.items() if name != "seed"})
    half = Table({**one.columns, "seed": np.where(one["body_parameters"] == LARGEST, np.nan, 0.0)})
    assert [found(table).together for table in (one, two, own, unknown, half)] == [6, 3, 1, 1, 2]
    assert found(one).covariance[0] > 4 * found(unknown).covariance[0]
    shared, apart = fit(one, bootstrap=10), fit(unknown, bootstrap=10)
    assert "rise and fall together: 6 of them count as one" in str(shared)
    assert "rise and fall together" not in str(apart)
    far = {"n": LARGEST, "d": 10.0 * LAST}
    assert np.ptp(shared.interval(far)) > 1.2 * np.ptp(apart.interval(far))


def test_single_points_of_one_seed_are_no_curve_of_it() -> None:
    table = in_one_order(curves(0.0, 0.075), 1)
    assert found(Table({**table.columns, "run": np.array([f"{k}" for k in range(len(table))])})).together == 1


def test_adapters_are_believed_to_fall_faster_rather_than_slower() -> None:
    """What tables of pre-training taught of the fading of slopes is not said of adapters: see the decision."""
    table = curves(0.0, 0.075, points=5, noise=0.01)
    adapters = Table({**table.columns, "trainable_parameters": np.full(len(table), 2_000.0)})
    whole = Table({**table.columns, "trainable_parameters": table["body_parameters"]})
    assert found(adapters).decay < min(found(table).decay, 0)
    assert found(whole) == found(table)


def test_growth_of_a_slope_ends() -> None:
    """Up to ten times the tokens the slope goes on growing, at a fifth a unit at most; from there it stays as it is."""
    at = Continuation((End({"n": 10.0}, 1_000.0, 0.1),), -0.2, (0.0, 0.0, 0.0))
    far_M = np.array([2.3, 3.3, 4.3])
    columns = {"n": np.full(3, np.exp(10.0)), "d": 1_000 * np.exp(far_M)}
    fall_M = at.fall(columns).fall
    assert fall_M[0] == pytest.approx(0.1 * np.expm1(0.2 * 2.3) / 0.2)
    np.testing.assert_allclose(np.diff(fall_M), 0.1 * np.exp(0.2 * 2.3))


def test_what_one_group_says_of_its_slope_is_less_sure_than_what_all_say() -> None:
    """A slope that is pulled half-way to that of the others is known less well than theirs together, never better."""
    at = found(curves(0.0, 0.075, noise=0.01))
    pooled = at.covariance[0]
    assert all(0.5 * pooled < end.own < 5 * pooled for end in at.ends)
    assert (
        dataclasses.replace(at, ends=tuple(dataclasses.replace(end, own=0.0) for end in at.ends))
        .fall({"n": np.array([LARGEST]), "d": np.array([4.0 * LAST])})
        .error
        < at.fall({"n": np.array([LARGEST]), "d": np.array([4.0 * LAST])}).error
    )


def test_points_of_a_table_that_names_no_runs_may_be_runs() -> None:
    """Three sizes are three trajectories where the table says so; else as many as the bootstrap weighs anew."""
    named = curves(0.0, 0.075)
    three = {name: named[name] for name in ("body_parameters", "tokens", "loss")}
    untold = from_columns({**three, "tokens": three["tokens"] * np.where(np.arange(len(named)) // 9 % 2, 1.01, 1.0)}, {})
    told = dataclasses.replace(untold, names_runs=True)
    assert (fit(told, bootstrap=10).runs, fit(untold, bootstrap=10).runs) == (3, 6)
    place = {"n": LARGEST, "d": 1.0 * LAST}
    assert np.ptp(fit(untold, bootstrap=10).interval(place)) < np.ptp(fit(told, bootstrap=10).interval(place))
