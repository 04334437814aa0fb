"""Fits: known parameters come back, intervals hold them, the competition prefers what foretells, learning rates are chosen."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, nnls

from isolora import laws
from isolora.errors import ConfigError, TableError
from isolora.fit import Fit, best_learning_rates, fit, studied
from isolora.fit.bootstrap import few_runs_stretch
from isolora.fit.descent import HUBER_DELTA, Problem, descend, huber
from isolora.fit.points import from_table
from isolora.fit.projection import nonnegative
from isolora.fit.search import search
from isolora.table import Table

SIZES = (6e4, 1.5e5, 4.4e5, 1e6)
RANKS = (1.0, 4.0, 16.0)
TOKENS = 8e3 * 2 ** (np.arange(9) / 2)
ADDITIVE = (2.5, 60.0, 80.0, 0.4, 0.35)


def study(loss_of, tokens=TOKENS, sizes=SIZES, ranks=RANKS, noise=0.0, seed=0, **more):
    """A table of one trajectory per size and rank whose loss is `loss_of(columns)` times noise, part of it the run's."""
    n, r, d = (grid.ravel() for grid in np.meshgrid(sizes, ranks, tokens, indexing="ij"))
    columns = {"n": n, "d": d, "p": 5 * r * np.sqrt(n), "u": d}
    rng = np.random.default_rng(seed)
    run = np.repeat(np.arange(len(sizes) * len(ranks)), len(tokens))
    luck = noise * (rng.standard_normal(len(n)) + 0.5 * rng.standard_normal(run.max() + 1)[run])
    return Table(
        {
            "run": run.astype(str).astype(object),
            "model": np.array([f"nano-{size:g}" for size in n], dtype=object),
            "method": np.full(len(n), "lora", dtype=object),
            "rank": r,
            "learning_rate": np.full(len(n), 0.01),
            "body_parameters": n,
            "trainable_parameters": columns["p"],
            "tokens": d,
            "unique_tokens": d,
            "unique_examples": d / 50,
            "flops": (4 * n + 6 * columns["p"]) * d,
            "seconds": d / 1e4,
            "loss": loss_of(columns) * np.exp(luck),
            **{name: np.full(len(n), value) for name, value in more.items()},
        }
    )


def additive(columns):
    return laws.resolve("additive").predict(np.array(ADDITIVE), columns)


@pytest.mark.parametrize(
    ("name", "theta"),
    [
        ("additive", ADDITIVE),
        ("multiplicative", (3.0, 400.0, 0.12, 0.35)),
        ("rectified", (2.5, 60.0, 3.0, 0.4, 0.6, 2e4)),
        ("additive+slope", (2.5, 60.0, 80.0, 0.4, 0.35, 2e3, 3e3)),
    ],
)
def test_exact_points_give_their_parameters_back(name, theta):
    table = study(lambda columns: laws.resolve(name).predict(np.array(theta), columns))
    fitted = fit(table, law=name, bootstrap=0, holdout="none")
    assert fitted.objective < 1e-12
    np.testing.assert_allclose(list(fitted.parameters.values()), theta, rtol=1e-3)


def test_the_optimum_is_one_that_scipy_cannot_better():
    points = from_table(study(additive, noise=0.003))
    found = search(laws.resolve("additive"), points, np.ones((1, len(points))))

    def objective(z):
        return huber(found.problem.log_loss(z[None, :])[0] - np.log(points.loss)).sum()

    polished = minimize(objective, found.z[0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-15, "maxiter": 4000})
    assert found.objective[0] <= polished.fun * (1 + 1e-6)


def test_the_objective_is_a_sum_and_replicates_do_not_touch_each_other():
    points = from_table(study(additive, noise=0.003))
    problem = Problem.of(laws.resolve("additive"), points.columns, points.loss)
    start = problem.z(np.array([ADDITIVE]))
    weights = np.random.default_rng(0).exponential(size=(3, len(points)))
    together = descend(problem, np.repeat(start, 3, axis=0), np.log(points.loss), weights)
    for index in range(3):
        alone = descend(problem, start.copy(), np.log(points.loss), weights[index : index + 1])
        np.testing.assert_allclose(together.objective[index], alone.objective[0], rtol=1e-6)
    residual = problem.log_loss(together.z[:1])[0] - np.log(points.loss)
    by_hand = np.where(np.abs(residual) < HUBER_DELTA, residual**2 / 2, HUBER_DELTA * (np.abs(residual) - HUBER_DELTA / 2))
    assert together.objective[0] == pytest.approx((weights[0] * by_hand).sum())


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_projection_solves_non_negative_least_squares(seed):
    rng = np.random.default_rng(seed)
    terms, weight = rng.lognormal(sigma=1.5, size=(2, 3, 15)), rng.exponential(size=15)
    coefficients, error = nonnegative(terms, weight)
    for index in range(2):
        root = np.sqrt(weight)
        expected, distance = nnls((terms[index] * root).T, root)
        np.testing.assert_allclose(coefficients[index], expected, atol=1e-6 * (1 + expected.max()))
        assert error[index] == pytest.approx(distance**2, rel=1e-6)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """24 of the 200 repeats of benchmarks/bench_fit.py; each repeat's five intervals count."""
    inside = []
    for seed in range(24):
        fitted = fit(study(additive, noise=0.003, seed=seed), law="additive", bootstrap=200, holdout="none", seed=seed)
        ends = np.array(list(fitted.intervals.values()))
        inside.append((ends[:, 0] <= ADDITIVE) & (ends[:, 1] >= ADDITIVE))
    assert 0.87 <= np.mean(inside) <= 1.0


def test_fewer_runs_stretch_the_intervals_more():
    assert few_runs_stretch(12, 5) == pytest.approx(np.sqrt(12 / 11) * 2.365 / 1.96, abs=0.01)
    assert few_runs_stretch(4, 5) > few_runs_stretch(12, 5) > few_runs_stretch(1000, 5) > 1


def test_auto_foretells_a_noisy_additive_study_four_times_beyond_it():
    fitted = fit(study(additive, noise=0.002), bootstrap=100)
    ahead = {"n": 1e6, "d": 4 * 1.28e5, "p": 2e4}
    truth = additive({"n": np.array([1e6]), "d": np.array([4 * 1.28e5])})[0]
    low, high = fitted.interval(ahead)
    assert fitted.predict(ahead)[0] == pytest.approx(truth, rel=0.01)
    assert low[0] < truth < high[0]
    assert high[0] / low[0] < 1.15
    assert fitted.holdout["mean"] < 0.01
    assert fitted.candidates[0]["error"] == min(row["error"] for row in fitted.candidates)


def test_an_s_shaped_start_is_cut_off():
    def curve(columns):
        return additive(columns) + 2.0 / (1 + (columns["d"] / 6e3) ** 4)

    fitted = fit(study(curve, tokens=2e3 * 2 ** (np.arange(13) / 2), noise=0.001), law="additive", bootstrap=0)
    assert fitted.cut >= 8e3
    ahead = {"n": np.array([1e6]), "d": np.array([5e5])}
    assert fitted.predict(ahead)[0] == pytest.approx(additive(ahead)[0], rel=0.02)


def test_held_out_points_are_the_largest_budgets_of_each_size():
    table = study(additive)
    held = fit(table, law="additive", bootstrap=0).holdout
    assert {row["run"] for row in held["points"]} == set(table["run"])
    assert 3 <= held["factor"] <= 4.2
    assert held["mean"] == pytest.approx(np.mean([row["relative_error"] for row in held["points"]]))


def test_the_interval_grows_with_the_distance():
    fitted = fit(study(additive, noise=0.002), law="additive", bootstrap=100)
    low, high = fitted.interval({"n": np.full(3, 1e6), "d": np.array([1e5, 1e6, 1e7])})
    assert (np.diff(high - low) > 0).all()
    narrow = fitted.interval({"n": 1e6, "d": 1e6}, level=0.5)
    assert low[1] < narrow[0][0] < narrow[1][0] < high[1]


def test_a_fit_is_json_and_comes_back():
    fitted = fit(study(additive, noise=0.002), law="additive", bootstrap=50)
    answer = json.loads(json.dumps(fitted.to_json()))
    names = ["law", "target", "parameters", "intervals", "objective", "points", "left_out", "holdout", "candidates", "cut"]
    assert list(answer) == names
    again = Fit.loads(fitted.dumps())
    assert again.to_json() == fitted.to_json()
    np.testing.assert_array_equal(again.interval({"n": 1e6, "d": 1e6}), fitted.interval({"n": 1e6, "d": 1e6}))
    assert "additive: loss = E + A n^-a + B d^-b" in str(fitted)
    with pytest.raises(TableError, match="not a fit"):
        Fit.loads("{}")


def test_the_same_seed_gives_the_same_fit():
    table = study(additive, noise=0.002)
    assert fit(table, law="additive", bootstrap=20).dumps() == fit(table, law="additive", bootstrap=20).dumps()


def test_requests_that_cannot_be_met():
    with pytest.raises(TableError, match="needs 3 or more distinct n"):
        fit(study(additive, sizes=(1e6,)), law="additive")
    with pytest.raises(ConfigError, match="unknown law"):
        fit(study(additive), law="cubic")
    with pytest.raises(ConfigError, match="unknown holdout"):
        fit(study(additive), holdout="smallest")
    with pytest.raises(TableError, match="carry no law"):
        fit(study(additive, tokens=np.array([1e4, 2e4])))
    with pytest.raises(TableError, match="no tokens column"):
        fit(Table({"loss": np.ones(3), "run": np.array(["a"] * 3, dtype=object)}))


def test_without_flops_without_sizes_the_power_law_still_fits():
    tokens = np.geomspace(1e3, 1e6, 12)
    table = Table({"run": np.full(12, "a", dtype=object), "tokens": tokens, "loss": 2 + 30 * tokens**-0.3})
    fitted = fit(table, bootstrap=10)
    assert fitted.law == "power"
    np.testing.assert_allclose(list(fitted.parameters.values()), (2, 30, 0.3), rtol=1e-3)


def rates_table(curves):
    """`curves` maps (rank, learning rate, run) to {tokens: loss}."""
    rows = [(rank, rate, run, t, loss) for (rank, rate, run), curve in curves.items() for t, loss in curve.items()]
    rank, rate, run, tokens, loss = zip(*rows, strict=True)
    numbers = {"rank": rank, "learning_rate": rate, "tokens": tokens, "loss": loss}
    columns = {name: np.array(values, dtype=float) for name, values in numbers.items()}
    return Table({**columns, "run": np.array(run, dtype=object), "model": np.full(len(rows), "nano", dtype=object)})


def test_the_best_learning_rate_is_judged_where_all_can_be_compared():
    table = rates_table(
        {
            (4, 0.001, "slow"): {100: 5.0, 200: 4.5, 400: 4.2},
            (4, 0.01, "fast"): {100: 4.0, 200: 3.9},
            (4, 0.1, "tuning only"): {50: 1.0},
            (8, 0.001, "other rank"): {100: 5.0},
        }
    )
    assert set(best_learning_rates(table)["run"]) == {"fast", "other rank"}


def test_all_seeds_of_the_best_rate_stay():
    curves = {(4, 0.01, "a"): 4.0, (4, 0.01, "b"): 4.6, (4, 0.1, "lucky"): 3.9, (4, 0.1, "unlucky"): 5.0}
    table = rates_table({key: {100: loss} for key, loss in curves.items()})
    assert set(best_learning_rates(table)["run"]) == {"a", "b"}


def test_the_proof_of_a_recommendation_is_not_fitted():
    table = study(additive)
    stage = np.where(table["run"] == "0", "verify", "grid").astype(object)
    assert "0" not in set(studied(Table({**table.columns, "stage": stage}))["run"])


def test_what_grows_is_fitted_when_asked_for_and_does_not_compete():
    table = study(lambda c: 0.02 + 1e-4 * c["d"] ** 0.6)
    found = fit(table, law="growing", bootstrap=20)
    assert [found.parameters[name] for name in ("E", "F", "f")] == pytest.approx([0.02, 1e-4, 0.6], rel=0.02)
    falling = fit(study(lambda c: laws.resolve("additive").predict(np.array(ADDITIVE), c)), bootstrap=20)
    assert not [row for row in falling.candidates if str(row["law"]).startswith("growing")]
