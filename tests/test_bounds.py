"""Scores and parameters at a bound: what few points leave open is in the interval, and is said."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from isolora.cli import app
from isolora.fit import about_bounds, fit
from isolora.fit.best_rates import RateEffect
from isolora.fit.interval import bounded_ends, noise_factor
from isolora.plan import NoRecommendation, plan
from isolora.table import Table

SIZES = np.array([5.5e4, 1.5e5, 4.4e5])
EXAMPLES = 400


def saturating(floor, half, n, d):
    """1 - accuracy that falls fast and then stands."""
    reach = (n / 1.5e5) ** -0.2
    return floor * reach**0.5 + 0.5 * np.exp(-((d / (half * reach)) ** 0.8))


def small_study(seed, floor=0.06, half=1.5e4, largest=4e4, points=5):
    """Three bases, few points, accuracies of 400 held-out rows."""
    n, d = (grid.ravel() for grid in np.meshgrid(SIZES, np.geomspace(5e3, largest, points), indexing="ij"))
    wrong = np.random.default_rng(seed).binomial(EXAMPLES, saturating(floor, half, n, d))
    names = np.array([f"nano-{size:.3g}" for size in n], dtype=object)
    columns = {"run": names, "model": names, "method": np.full(len(n), "lora", dtype=object), "rank": np.full(len(n), 8.0)}
    columns |= {"learning_rate": np.full(len(n), 1e-3), "body_parameters": n, "trainable_parameters": 160 * np.sqrt(n)}
    return Table({**columns, "tokens": d, "flops": 6 * n * d, "loss": np.ones(len(n)), "accuracy": 1 - wrong / EXAMPLES})


def test_a_promise_from_a_law_without_a_floor_is_kept():
    """At 4 and 10 x the tokens; before floors that the points allow were counted in, 11 of these 16 measurements were inside."""
    inside = []
    for floor, half, seed in ((0.08, 8e3, 0), (0.12, 8e3, 2), (0.12, 2e4, 0), (0.06, 1.5e4, 3)):
        law = fit(small_study(seed, floor, half), target="accuracy", bootstrap=50)
        ahead = {"n": np.repeat(SIZES[1:], 2), "d": np.tile([1.6e5, 4e5], 2)}
        ahead |= {"p": 160 * np.sqrt(ahead["n"]), "c": 6 * ahead["n"] * ahead["d"]}
        wrong = np.random.default_rng(100 + seed).binomial(EXAMPLES, saturating(floor, half, ahead["n"], ahead["d"]))
        low, high = law.interval(ahead)
        assert ((low >= 0) & (high <= 1)).all()
        inside += list((low <= wrong / EXAMPLES) & (wrong / EXAMPLES <= high))
    assert sum(inside) >= 15


def test_a_floor_of_zero_is_no_certainty():
    law = fit(small_study(3), law="additive", target="accuracy", bootstrap=50)
    assert "E" in law.pinned
    allowed = dict(zip(law.parameters, law.edges["E"], strict=True))["E"]
    smallest = (1 - small_study(3)["accuracy"]).min()
    assert 0.02 * smallest < allowed < smallest
    at = {"n": SIZES[-1:], "d": np.array([4e6])}
    without = dataclasses.replace(law, edges={})
    assert law.interval(at)[1] > allowed > without.interval(at)[0]
    assert law.interval(at)[1] > without.interval(at)[1]
    assert f"E = {law.parameters['E']:.3g}: no floor is seen, but the points allow {allowed:.3g} as well" in str(law)
    assert type(law).loads(law.dumps()).edges == law.edges


def test_an_exponent_at_its_bound_is_said():
    """A loss that falls as the cube of the tokens: steeper than exponents go."""
    d = np.geomspace(1e3, 1e5, 10)
    loss = 1 + (d / 2e3) ** -3
    law = fit(Table({"run": np.full(10, "a", dtype=object), "tokens": d, "loss": loss}), law="power", bootstrap=0, holdout="none")
    assert law.pinned == ("b",)
    assert 1 < law.edges["b"][-1] < 2
    assert f"b = 2: an end of where it is looked for, but the points allow {law.edges['b'][-1]:.3g} as well" in str(law)
    [sentence] = about_bounds(dataclasses.replace(law, edges={}))
    assert sentence.endswith("the points press against it, and the law may be the wrong one")


def test_a_law_of_full_rank_has_no_edges():
    n, d = (grid.ravel() for grid in np.meshgrid([1e5, 3e5, 1e6], np.geomspace(1e4, 1e6, 8), indexing="ij"))
    loss = 2 + 50 * n**-0.4 + 80 * d**-0.35
    names = n.astype(str).astype(object)
    law = fit(Table({"run": names, "body_parameters": n, "tokens": d, "loss": loss}), law="additive", bootstrap=0)
    assert (law.pinned, law.edges) == ((), {})


def test_what_is_too_wide_to_choose_by_is_refused_as_a_score():
    table = small_study(1, floor=0.02, half=6e4, points=4)
    law = fit(table, law="additive", target="accuracy", bootstrap=20)
    with pytest.raises(NoRecommendation, match=r"the evidence leaves accuracy between 0\.\d+ and 0\.\d+, too wide") as refused:
        plan(law, table, "2e12flops")
    assert refused.value.measure_next
    assert "reached accuracy 0." in refused.value.words()


def test_accuracy_itself_is_predicted(tmp_path: Path) -> None:
    table = small_study(0)
    path = tmp_path / "points.csv"
    names = list(table.columns)
    rows = zip(*table.columns.values(), strict=True)
    path.write_text("\n".join(",".join(map(str, row)) for row in [names, *rows]) + "\n")
    words = ["predict", str(path), "--target", "accuracy", "--at", "n=440000,p=106000,d=1e5", "--bootstrap", "20"]
    [point] = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["points"]
    assert point["score"]["name"] == "accuracy"
    assert point["score"]["predicted"] == pytest.approx(1 - point["predicted"])
    assert point["score"]["interval"] == pytest.approx([1 - end for end in reversed(point["interval"])])
    shown = CliRunner().invoke(app, words).stdout
    assert shown.startswith("accuracy, by law ")
    assert f"{1 - point['predicted']:.4f}  [" in shown


def test_noise_of_a_share_follows_its_size():
    """sqrt((1 - e) / e) relative to where it was seen, and never less than was seen."""
    np.testing.assert_allclose(noise_factor(np.array([0.2, 0.05, 0.5]), 0.2), [1.0, np.sqrt(19 / 4), 1.0])


def test_ends_of_an_error_stay_in_its_range():
    error, width = np.array([1e-3, 0.3, 0.95, 1.0]), np.full(4, 0.5)
    low, high = bounded_ends(error, width, width)
    assert ((low > 0) & (low < error) & (high <= 1)).all()
    assert (high[:3] > error[:3]).all()
    np.testing.assert_allclose([low[0], high[0]], 1e-3 * np.exp([-0.5, 0.5]), rtol=2e-3)


def test_a_rate_beyond_those_compared_is_a_guess():
    effect = RateEffect(0.0, 0.01, 0.02, (-np.log(4), np.log(2)), (1e6,), (1e-3,))
    _, spread = effect.cost(1e-3 * np.array([1, 2**-0.5, 0.5, 0.25, 2, 4]), np.full(6, 1e6))
    np.testing.assert_allclose(spread, 0.02 * np.array([0, 0.5, 1, 1, 1, 4]), atol=1e-12)
