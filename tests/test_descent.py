"""Descents: the parabola near z is the objective's own, what bends is told from what does not, and refits reach their end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from isolora import laws
from isolora.fit import rolling
from isolora.fit.descent import descend
from isolora.fit.fit_points import Points
from isolora.fit.misfit import Misfit
from isolora.fit.problem import Problem
from isolora.fit.rolling import Trim, roll

SIZES, TOKENS, RANKS = (6e4, 2.5e5, 1e6), np.geomspace(8e3, 2.56e5, 12), (1.0, 4.0, 16.0)
TRUTH = (2.5, 60.0, 80.0, 0.4, 0.35)
STRAIGHT = ("additive", "additive+capacity", "tied", "multiplicative", "interacting", "power", "overfitting", "compute")


def columns(unique=6e4):
    n, r, d = (grid.ravel() for grid in np.meshgrid(SIZES, RANKS, TOKENS, indexing="ij"))
    return {"n": n, "d": d, "p": r * np.sqrt(n), "u": np.minimum(d, unique), "c": 6 * n * d}


def points(noise=0.01, seed=0):
    at = columns()
    run = np.repeat(np.arange(9), len(TOKENS))
    luck = noise * np.random.default_rng(seed).standard_normal(len(run))
    loss = laws.resolve("additive").predict(np.array(TRUTH), at) * np.exp(luck)
    return Points(at, loss, run, tuple(map(str, range(9))), at["c"])


def middle(name):
    law = laws.resolve(name)
    problem = Problem.of(law, columns(), np.full(len(columns()["d"]), 4.0))
    z = 0.45 * problem.low[None, :] + 0.55 * problem.high
    z[:, : len(law.coefficients)] = [0.1, -0.2, 0.3, -0.1, 0.2][: len(law.coefficients)]
    return problem, z


@pytest.mark.parametrize("name", STRAIGHT)
def test_terms_that_are_straight_lines_in_their_shapes_are_seen_to_be(name):
    problem, _ = middle(name)
    assert not problem.derivatives.bent.any()
    assert not problem.derivatives.in_proportion.any()


@pytest.mark.parametrize(
    ("name", "bent"), [("rectified", {"b", "T"}), ("additive+slope", {"P", "F"}), ("data-constrained", {"R"})]
)
def test_only_what_bends_is_computed_by_differences(name, bent):
    problem, _ = middle(name)
    names = problem.law.parameters[len(problem.law.coefficients) :]
    assert {names[q] for q in problem.derivatives.shape[problem.derivatives.bent]} == bent


@pytest.mark.parametrize("name", laws.law_names())
def test_the_gradient_is_that_of_the_objective(name):
    problem, z = middle(name)
    target = problem.log_loss(z)[0] + np.random.default_rng(0).normal(scale=2e-3, size=len(columns()["d"]))
    weight = np.random.default_rng(1).exponential(size=(1, len(target)))
    misfit = Misfit.of(problem, target, weight)

    def objective(z_Z):
        return misfit.objective(misfit.residual(problem.mixture(z_Z[None, :])))[0]

    at = problem.mixture(z)
    found = misfit.parabola(z, at, misfit.residual(at)).gradient[0]
    np.testing.assert_allclose(found, approx_fprime(z[0], objective, 1e-8), rtol=1e-3, atol=1e-5 * np.abs(found).max())


@pytest.mark.parametrize("name", STRAIGHT)
def test_the_hessian_has_the_laws_own_bend(name):
    """All residuals within delta and of one sign, so that the bend of the law counts."""
    problem, z = middle(name)
    misfit = Misfit.of(problem, problem.log_loss(z)[0] - 8e-4, np.ones((1, len(columns()["d"]))))

    def parabola(z_KZ):
        at = problem.mixture(z_KZ)
        return misfit.parabola(z_KZ, at, misfit.residual(at))

    step = 1e-5 * np.eye(z.shape[1])
    numeric = np.stack([parabola(z + h).gradient[0] - parabola(z - h).gradient[0] for h in step]) / 2e-5
    found = parabola(z)
    bend = (found.hessian - found.above)[0]
    np.testing.assert_allclose(bend, numeric - found.above[0], atol=0.02 * np.abs(bend).max())
    assert np.abs(bend).max() > 1e-3


def test_more_fits_than_are_in_work_at_a_time_do_not_touch_each_other():
    measured = points()
    problem = Problem.of(laws.resolve("tied"), measured.columns, measured.loss)
    weights = np.random.default_rng(0).exponential(size=(500, len(measured)))
    start = np.repeat((problem.low + problem.high)[None, :] / 2, 500, axis=0)
    together = descend(problem, start, np.log(measured.loss), weights)
    assert together.converged.mean() > 0.95
    for index in (0, 250, 499):
        alone = descend(problem, start[:1], np.log(measured.loss), weights[index : index + 1])
        np.testing.assert_allclose(together.objective[index], alone.objective[0], rtol=1e-6)


@pytest.mark.parametrize("name", ["tied", "additive", "additive+capacity", "additive+slope"])
def test_refits_reach_their_end(name):
    """As a bootstrap's: from one fit to other weights, most along a valley of the floor and the exponents."""
    measured = points()
    problem = Problem.of(laws.resolve(name), measured.columns, measured.loss)
    log_loss = np.log(measured.loss)
    fitted = descend(problem, (problem.low + problem.high)[None, :] / 2, log_loss, np.ones((1, len(measured))), 300)
    weights = np.random.default_rng(0).exponential(size=(100, 9))[:, measured.run]
    starts = np.repeat(fitted.z, 100, axis=0)
    refitted = descend(problem, starts, log_loss, weights, 60, tolerance=1e-5)
    further = descend(problem, refitted.z, log_loss, weights, 1000, tolerance=1e-12)
    excess = refitted.objective / further.objective - 1
    assert np.mean(excess) < 2e-3
    assert np.quantile(excess, 0.9) < 5e-3


def test_a_shape_that_moves_nothing_stays_where_it_is():
    """Without repeats the penalty's exponent has no say."""
    measured = points(0.003)
    once = replace(measured, columns={**measured.columns, "u": measured.columns["d"]})
    problem = Problem.of(laws.resolve("overfitting"), once.columns, once.loss)
    assert 2 not in problem.derivatives.shape
    start = (problem.low + problem.high)[None, :] / 2
    found = descend(problem, start, np.log(once.loss), np.ones((1, len(once))))
    assert found.z[0, -1] == start[0, -1]


def test_candidates_that_are_known_are_not_fitted_again(monkeypatch):
    measured, tried, fitted = points(0.003), [laws.resolve("additive"), laws.resolve("tied")], []

    def counted(law, points, weight_KM, effort):
        fitted.append(len(weight_KM))
        return search(law, points, weight_KM, effort)

    search = rolling.search_fit
    monkeypatch.setattr(rolling, "search_fit", counted)
    trim = Trim(float(measured.columns["d"].min()), 0.25)
    screened, anew = roll(measured, tried, [trim]), roll(measured, tried)
    rows_of_all = fitted[-1]
    again = roll(measured, tried, known=screened.candidates)
    assert fitted[-1] == rows_of_all - fitted[0]
    for one, other in zip(again.candidates, anew.candidates, strict=True):
        assert (one.law.name, one.trim) == (other.law.name, other.trim)
        np.testing.assert_allclose(one.fitted, other.fitted, rtol=1e-6)
