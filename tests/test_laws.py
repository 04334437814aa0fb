"""Every law and every capacity term: positive, falling, invertible, and told apart only by points that can."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isolora import laws
from isolora.errors import ConfigError, TableError
from isolora.fit.problem import Problem
from isolora.laws.data_constrained import log_effective_tokens

EVERY = laws.law_names()


def columns(sizes=(6e4, 2.5e5, 1e6), tokens=(8e3, 1.6e4, 3.2e4, 6.4e4, 1.28e5), ranks=(1, 4, 16), unique=3e4):
    n, d, r = (grid.ravel().astype(float) for grid in np.meshgrid(sizes, tokens, ranks, indexing="ij"))
    return {"n": n, "d": d, "p": r * np.sqrt(n), "u": np.minimum(d, unique), "c": 6 * n * d}


def middle(law, points):
    """A parameter vector in the middle of the law's box."""
    problem = Problem.of(law, points, np.full(len(points["d"]), 4.0))
    z = (problem.low + problem.high)[None, :] / 2
    z[:, : len(law.coefficients)] = 0.0
    return problem, z


@pytest.mark.parametrize("name", EVERY)
def test_more_tokens_never_hurt_and_more_of_anything_lowers_the_loss(name):
    law, points = laws.resolve(name), columns(unique=1e9)
    _, theta = (lambda problem, z: (z, problem.theta(z)))(*middle(law, points))
    at = {key: np.full(3, np.median(values)) for key, values in points.items()} | {"d": np.array([1e4, 1e5, 1e6])}
    loss = law.predict(theta[0], {**at, "u": at["d"], "c": 6 * at["n"] * at["d"]})
    assert (loss > 0).all()
    assert (np.diff(loss) * (1 if law.grows else -1) > 0).all()


@pytest.mark.parametrize("name", EVERY)
def test_a_search_vector_and_the_laws_own_parameters_are_the_same_thing(name):
    law, points = laws.resolve(name), columns()
    problem, z = middle(law, points)
    theta = problem.theta(z)
    assert theta.shape == (1, len(law.parameters))
    np.testing.assert_allclose(problem.z(theta), z, atol=1e-9)
    np.testing.assert_allclose(np.log(law.predict(theta, points)), problem.log_loss(z), rtol=1e-9)


@pytest.mark.parametrize("name", EVERY)
def test_slopes_are_those_of_finite_differences(name):
    problem, z = middle(laws.resolve(name), columns())
    slopes = problem.slopes(z, problem.mixture(z))
    for index in range(z.shape[1]):
        step = np.zeros_like(z)
        step[0, index] = 1e-5
        numeric = (problem.log_loss(z + step) - problem.log_loss(z - step)) / 2e-5
        np.testing.assert_allclose(slopes[:, index], numeric, rtol=1e-5, atol=1e-5)


def test_formulas_by_hand():
    point = {"n": np.array([100.0]), "d": np.array([16.0]), "p": np.array([9.0]), "u": np.array([4.0])}

    def loss(name, *theta):
        return laws.resolve(name).predict(np.array(theta), point)[0]

    assert loss("power", 2, 8, 0.5) == pytest.approx(2 + 8 / 4)
    assert loss("additive", 2, 10, 8, 0.5, 0.5) == pytest.approx(2 + 10 / 10 + 8 / 4)
    assert loss("multiplicative", 2, 80, 0.5, 0.5) == pytest.approx(2 + 80 / 10 / 4)
    assert loss("rectified", 2, 10, 8, 0.5, 0.5, 4.0) == pytest.approx(2 + 1 + 8 / (1 + 2))
    assert loss("additive+capacity", 2, 10, 8, 6, 0.5, 0.5, 0.5) == pytest.approx(2 + 1 + 2 + 6 / 3)
    assert loss("power+slope", 2, 8, 0.5, 36.0, 1.0) == pytest.approx(2 + 8 * 16 ** (-0.5 / 3))
    assert loss("power+slope", 2, 8, 0.5, 36.0, 4.0) == pytest.approx(2 + 8 * 4**-0.5 * 4 ** (-0.5 / 3))
    effective = 4 * (1 + 2 * (1 - np.exp(-3 / 2)))
    assert loss("data-constrained", 2, 10, 8, 0.5, 0.5, 2.0) == pytest.approx(2 + 1 + 8 * effective**-0.5)


@given(st.floats(1, 1e9), st.floats(1, 1e9), st.floats(0.5, 100))
@settings(max_examples=60, deadline=None)
def test_repeated_tokens_are_worth_no_more_than_new_ones(tokens, unique, worth):
    logs = {"d": np.log([tokens]), "u": np.log([min(tokens, unique)])}
    effective = np.exp(log_effective_tokens(np.array([[np.log(worth)]]), logs))[0, 0]
    assert effective <= tokens * (1 + 1e-9)
    assert effective <= unique * (1 + worth) * (1 + 1e-9) or tokens <= unique
    if tokens <= unique:
        assert effective == pytest.approx(tokens)


def test_what_the_points_cannot_tell_apart_is_said_in_one_line():
    one_size = columns(sizes=(1e6,))
    with pytest.raises(TableError, match=r"law 'additive' needs 3 or more distinct n; the table has 1 \(1e\+06\)"):
        laws.resolve("additive").demand(one_size)
    with pytest.raises(TableError, match="two or more distinct p at one n"):
        laws.resolve("additive+slope").demand(columns(ranks=(4,)))
    with pytest.raises(TableError, match="beyond the first pass"):
        laws.resolve("data-constrained").demand(columns(unique=1e9))
    with pytest.raises(TableError, match="needs a column n"):
        laws.resolve("additive").demand({"d": one_size["d"]})
    laws.resolve("power").demand(one_size)
    with pytest.raises(TableError, match="needs 3 or more distinct d; the table has 2"):
        laws.resolve("power").demand({"d": np.array([1000.0, 1010.0, 1020.0, 2000.0, 2020.0])})


def test_laws_of_repeats_by_hand():
    point = {"n": np.array([100.0]), "d": np.array([16.0]), "u": np.array([4.0]), "c": np.array([256.0])}

    def loss(name, *theta):
        return laws.resolve(name).predict(np.array(theta), point)[0]

    assert loss("tied", 2, 10, 8, 0.5) == pytest.approx(2 + 10 / 10 + 8 / 4)
    assert loss("compute", 2, 8, 0.5) == pytest.approx(2 + 8 / 16)
    penalty = (16 / 4 - 1 + 0.01) ** 2
    assert loss("overfitting", 2, 10, 8, 0.1, 0.5, 0.5, 2.0) == pytest.approx(2 + 1 + 2 + 0.1 * penalty)
    assert loss("rising", 2, 8, 0.1, 0.5, 2.0) == pytest.approx(2 + 2 + 0.1 * penalty)
    tokens = 4 * (1 + 2 * (1 - np.exp(-3 / 2)))
    useful = 0.5 * 4
    weights = useful * (1 + 5 * (1 - np.exp(-(100 / useful - 1) / 5)))
    expected = 2 + 10 * weights**-0.5 + 8 * tokens**-0.5
    assert loss("data-constrained-full", 2, 10, 8, 0.5, 0.5, 2.0, 5.0, 0.5) == pytest.approx(expected)


def test_muennighoffs_own_figures():
    """The paper's law at its published parameters, by hand: U_N from 0.051 weights a unique token, R_N* 5.31, R_D* 15.4."""
    n, d, u = 2.8e9, 55e9, 4e9
    useful = min(n, 0.051 * u)
    weights = useful + useful * 5.31 * (1 - np.exp(-(n / useful - 1) / 5.31))
    tokens = u + u * 15.4 * (1 - np.exp(-(d / u - 1) / 15.4))
    expected = 1.87 + 521 * weights**-0.353 + 1488 * tokens**-0.353
    law = laws.resolve("muennighoff")
    theta = np.array([1.87, 521, 1488, 0.353, 0.353, 15.4, 5.31, 0.051])
    found = law.predict(theta, {"n": np.array([n]), "d": np.array([d]), "u": np.array([u])})
    assert found[0] == pytest.approx(expected)


def test_too_many_passes_raise_the_loss_of_the_overfitting_law_and_of_no_other():
    d = np.geomspace(1e5, 1e8, 30)
    at = {"n": np.full(30, 1e6), "d": d, "u": np.full(30, 1e5)}
    over = laws.resolve("overfitting").predict(np.array([2, 100, 50, 0.001, 0.4, 0.3, 1.5]), at)
    assert over.argmin() not in (0, 29)
    worth = laws.resolve("data-constrained").predict(np.array([2, 100, 50, 0.4, 0.3, 15.0]), at)
    assert (np.diff(worth) <= 0).all()


def test_a_method_changes_what_a_token_is_worth():
    law = laws.by_method(laws.resolve("power"), ["lora", "full"])
    assert law.parameters == ("E", "B", "b", "o[full]", "s[full]")
    columns_M = {"d": np.array([1e4, 1e4]), **laws.method_columns(["lora", "full"], ["lora", "full"])}
    loss = law.predict(np.array([2.0, 8.0, 0.5, 0.7, 0.1]), columns_M)
    assert loss[0] == pytest.approx(2 + 8 / 100)
    worth = 1e4 * np.exp(0.7 + 0.1 * np.log(1e4 / 1e5))
    assert loss[1] == pytest.approx(2 + 8 * worth**-0.5)
    assert laws.methods_in_name(law.name) == ("lora", "full")
    assert laws.resolve(law.name).parameters == law.parameters


def test_a_family_has_an_offset_and_a_factor():
    law = laws.by_family(laws.resolve("additive"), ["nano", "smollm"])
    assert law.parameters == ("E", "A", "B", "a", "b", "o[smollm]", "a[smollm]")
    columns_M = {"n": np.full(2, 1e4), "d": np.full(2, 1e4), **laws.family_columns(["nano", "smollm"], ["nano", "smollm"])}
    loss = law.predict(np.array([2.0, 3.0, 8.0, 0.25, 0.5, 0.7, -0.1]), columns_M)
    assert loss[0] == pytest.approx(2 + 3 / 10 + 8 / 100)
    assert loss[1] == pytest.approx(np.exp(-0.1) * (2 + 3 / 10 + 8 * (1e4 * np.exp(0.7)) ** -0.5))
    both = laws.by_method(law, ["lora", "full"])
    assert (laws.families_in_name(both.name), laws.methods_in_name(both.name)) == (("nano", "smollm"), ("lora", "full"))
    assert laws.resolve(both.name).parameters == both.parameters


def test_a_size_is_told_from_a_family_where_one_family_has_two_sizes():
    law = laws.by_family(laws.resolve("additive"), ["nano", "smollm"])
    tokens = np.geomspace(1e4, 1e6, 12)
    sizes, names = np.repeat([1e4, 1e5, 1e6], 4), np.repeat(["nano", "nano", "smollm"], 4)
    law.demand({"n": sizes, "d": tokens, **laws.family_columns(list(names), ["nano", "smollm"])})
    three = ["nano", "smollm", "other"]
    columns = {"n": sizes, "d": tokens, **laws.family_columns(list(np.repeat(three, 4)), three)}
    with pytest.raises(TableError, match=r"needs two or more distinct n in one family of bases"):
        laws.by_family(laws.resolve("additive"), three).demand(columns)


def test_every_law_has_a_sentence_and_no_alias_twice():
    every = [laws.resolve(name) for name in laws.law_names() if "+" not in name]
    assert all(law.sentence.endswith(".") for law in every)
    aliases = [alias.lower() for law in every for alias in law.aliases]
    assert len(set(aliases)) == len(aliases)
    assert not set(aliases) & set(laws.law_names())
    for alias, name in {"chinchilla": "additive", "Zhang": "multiplicative", "muennighoff": "data-constrained-full"}.items():
        assert laws.resolve(alias).name == name
    assert laws.resolve("chinchilla+slope").name == "additive+slope"


@pytest.mark.parametrize("name", laws.law_names())
def test_no_two_parameters_have_one_name(name):
    """A fit is kept by names: `growing+slope` had two called F, of which one was lost."""
    law = laws.resolve(name)
    assert len(set(law.parameters)) == len(law.parameters)
    assert all(re.search(rf"\b{parameter}\b", law.formula) for parameter in law.parameters)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'additive'"):
        laws.resolve("aditive")
    with pytest.raises(ConfigError, match="did you mean 'slope'"):
        laws.resolve("additive+slop")
