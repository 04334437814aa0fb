"""Plans: budgets are parsed, tokens are exact, the best option wins, equal ranks yield to the smallest, doubts are said."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolora import laws
from isolora.errors import TableError, UserError
from isolora.fit import Fit
from isolora.plan import (
    Budget,
    Limits,
    NoRecommendation,
    asked_plan,
    best_measured,
    frontier,
    isoflop,
    options,
    parse_budget,
    parse_memory,
    parse_reach,
    parse_tokens,
    plan,
    reach,
)
from isolora.plan.limits import least_tokens
from isolora.table import Table, from_columns

SIZES = (1e5, 1e6)
RANKS = (2, 8)
TOKENS = np.array([1e4, 1e5])


def fitted(law="additive", theta=(2.0, 100.0, 50.0, 0.4, 0.3), noise=0.002):
    shape = laws.resolve(law)
    return Fit(
        law=law,
        parameters=dict(zip(shape.parameters, theta, strict=True)),
        intervals=dict.fromkeys(shape.parameters, (0.0, 1.0)),
        objective=0.0,
        points=8,
        holdout={"mean": 0.01},
        candidates=({"law": law, "cut": 1e4, "parameters": 5, "error": 0.01},),
        cut=1e4,
        runs=12,
        noise=noise,
        drift=0.005,
        ranges={"n": SIZES, "d": (1e4, 1e5)},
        draws=np.array([theta]),
    )


def measured(loss=lambda n, d, p: 2 + 100 * n**-0.4 + 50 * d**-0.3, **more):
    n, r, d = (grid.ravel() for grid in np.meshgrid(SIZES, RANKS, TOKENS, indexing="ij"))
    p = r * np.sqrt(n)
    text = {
        "run": [f"{size:g}-{rank:g}" for size, rank in zip(n, r, strict=True)],
        "model": [f"nano-{size:g}" for size in n],
        "method": ["lora"] * len(n),
        "stage": ["grid"] * len(n),
    }
    numbers = {
        "rank": r,
        "learning_rate": np.full(len(n), 0.01),
        "body_parameters": n,
        "trainable_parameters": p,
        "tokens": d,
        "unique_tokens": d,
        "unique_examples": d / 50,
        "flops": (4 * n + 6 * p) * d,
        "seconds": d * n / 1e10,
        "peak_memory_bytes": n * 16 + p * 100,
        "loss": loss(n, d, p),
        **{name: np.broadcast_to(values, len(n)).copy() for name, values in more.items()},
    }
    columns = {name: np.array(values, dtype=object) for name, values in text.items()}
    return Table({**columns, **{name: np.asarray(values, dtype=float) for name, values in numbers.items()}})


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("1e15flops", 1e15, "flops"),
        ("2.5e3 FLOP", 2500, "flops"),
        ("90s", 90, "seconds"),
        ("30min", 1800, "seconds"),
        ("2h", 7200, "seconds"),
    ],
)
def test_budgets(text, amount, unit):
    assert parse_budget(text) == Budget(amount, unit)


@pytest.mark.parametrize("text", ["-1flops", "0h", "1e999flops", "nan s", "5", "flops", "3 parsecs", "", "1e15 flops please"])
def test_budgets_that_are_none(text):
    with pytest.raises(UserError, match=r"^budget .*1e15flops, 90s, 30min, 2h, 1d, 20usd") as caught:
        parse_budget(text)
    assert "\n" not in str(caught.value)


@given(st.floats(1e-3, 1e30))
def test_any_positive_number_of_flops_is_a_budget(amount):
    assert parse_budget(f"{amount!r}flops").amount == pytest.approx(amount)


def test_memories():
    assert parse_memory("16GB") == 16e9
    assert parse_memory("8 GiB") == 8 * 2**30
    with pytest.raises(UserError, match="memory '-1GB' is not a positive amount"):
        parse_memory("-1GB")


def test_the_budget_is_spent_exactly_and_the_better_size_wins():
    answer = plan(fitted(), measured(), "4e12flops")
    assert answer.model == "nano-1e+06"
    assert answer.flops == pytest.approx(4e12)
    assert answer.tokens == round(4e12 / (4e6 + 6 * 2 * 1e3))
    assert answer.seconds == pytest.approx(answer.tokens * 1e6 / 1e10, rel=1e-6)
    assert answer.predicted_loss == pytest.approx(2 + 100 * 1e6**-0.4 + 50 * answer.tokens**-0.3)
    assert answer.interval[0] < answer.predicted_loss < answer.interval[1]
    assert answer.nearest_evidence["run"] == "1e+06-2"
    assert answer.nearest_evidence["tokens"] == 1e5


def test_a_small_budget_goes_to_the_small_base():
    assert plan(fitted(), measured(), "4e9flops").model == "nano-100000"


def test_time_is_a_budget_too():
    assert plan(fitted(), measured(), "2min").seconds == pytest.approx(120)


def test_of_equal_ranks_the_smallest_and_of_unequal_ones_the_best():
    assert plan(fitted(), measured(), "4e12flops").method == {"name": "lora", "rank": 2}
    steep = fitted("additive+capacity", (2.0, 100.0, 50.0, 200.0, 0.4, 0.3, 0.5))
    points = measured(lambda n, d, p: 2 + 100 * n**-0.4 + 50 * d**-0.3 + 200 * p**-0.5)
    assert plan(steep, points, "4e12flops").method == {"name": "lora", "rank": 8}


def test_prices_known_better_override_those_measured():
    cheap = {("nano-1e+06", rank): 1e6 for rank in RANKS}
    assert plan(fitted(), measured(), "4e12flops", prices=cheap).tokens == 4_000_000


def test_few_examples_become_passes_and_only_a_law_of_repeats_prices_them():
    answer = plan(fitted(), measured(), "4e12flops", examples=4000)
    assert answer.examples == 4000
    assert answer.epochs == pytest.approx(4.0), "more passes than 4 are not planned by a law that takes them for new data"
    assert "4 passes)" in str(answer)
    assert "1 pass)" in str(dataclasses.replace(answer, epochs=1.0))
    assert answer.tokens == 4 * 4000 * 50
    assert any("passed over" in sentence for sentence in answer.warnings)
    assert any("the budget is not spent" in sentence for sentence in answer.warnings)
    repeats = fitted("data-constrained", (2.0, 100.0, 50.0, 0.4, 0.3, 5.0))
    repeats = dataclasses.replace(repeats, ranges={**repeats.ranges, "u": (1e4, 1e5)})
    priced = plan(repeats, measured(), "4e12flops", examples=4000)
    assert priced.epochs == pytest.approx(4.0), "the runs made one pass; four times that is the most it is trusted with"
    assert priced.predicted_loss > answer.predicted_loss
    assert not any("passed over" in sentence for sentence in priced.warnings)


def test_memory_leaves_out_what_does_not_fit():
    assert plan(fitted(), measured(), "4e12flops", memory_bytes=5e6).model == "nano-100000"
    with pytest.raises(TableError, match="fits no option; the smallest needs"):
        plan(fitted(), measured(), "4e12flops", memory_bytes=10.0)


def test_doubts_are_said():
    said = " / ".join(plan(fitted(), measured(), "4e13flops").warnings)
    assert "the largest measured" in said
    assert "nano-1e+06 with lora of rank 2 was followed for 100,000 tokens; the plan is 99.7 x that" in said
    assert "is the largest base measured" in said
    untested = dataclasses.replace(fitted(), holdout={}, runs=3)
    said = " / ".join(plan(untested, measured(), "4e9flops").warnings)
    assert "nothing was held out" in said
    assert "rests on 3 runs only" in said
    rival = {"law": "power", "cut": 1e4, "parameters": 3, "error": 0.0105}
    close = dataclasses.replace(fitted(), candidates=(*fitted().candidates, rival))
    assert any("chosen narrowly" in sentence for sentence in plan(close, measured(), "4e9flops").warnings)


def test_the_answer_is_json_with_the_promised_keys():
    answer = json.loads(json.dumps(plan(fitted(), measured(), "4e12flops").to_json()))
    promised = {
        "model",
        "method",
        "tokens",
        "examples",
        "epochs",
        "flops",
        "predicted_loss",
        "interval",
        "nearest_evidence",
        "warnings",
    }
    assert promised <= answer.keys()
    assert len(answer["alternatives"]) == 4
    assert "expected loss" in str(plan(fitted(), measured(), "4e12flops"))


def test_the_proof_of_an_earlier_plan_is_no_option():
    table = measured()
    stage = np.where(table["run"] == "1e+06-2", "verify", "grid").astype(object)
    assert len(options(Table({**table.columns, "stage": stage}))) == 3


def test_curves_agree_with_the_plan():
    priced = options(measured())
    profile = isoflop(fitted(), priced, 4e12)
    best = frontier(fitted(), priced, [4e9, 4e12])
    assert profile["loss"].shape == (4,)
    np.testing.assert_allclose(profile["tokens"], [4e12 / option.flops_per_token for option in priced])
    assert best["body_parameters"].tolist() == [1e5, 1e6]
    assert best["loss"][1] == pytest.approx(plan(fitted(), measured(), "4e12flops").predicted_loss, rel=1e-3)


def test_a_table_that_cannot_be_priced():
    with pytest.raises(TableError, match="no model column; a plan needs a model \\(or n\\), tokens, and flops or seconds"):
        options(Table({"loss": np.ones(2), "run": np.array(["a", "b"], dtype=object)}))
    timeless = Table({name: column for name, column in measured().columns.items() if name != "seconds"})
    with pytest.raises(TableError, match="needs a seconds column"):
        plan(fitted(), timeless, "2h")
    assert plan(fitted(), timeless, "4e12flops").seconds is None


def test_money_is_a_budget_where_an_hour_has_a_price():
    assert parse_budget("20usd", 2.5) == Budget(8 * 3600, "seconds", 2.5)
    with pytest.raises(UserError, match="budget '20usd' is money; say what an hour costs with --price-per-hour"):
        parse_budget("20usd")
    with pytest.raises(UserError, match="price per hour -1 is not a positive amount"):
        parse_budget("20usd", -1)
    answer = plan(fitted(), measured(), parse_budget("0.05eur", 1.5))
    assert answer.seconds == pytest.approx(120)
    assert answer.money == pytest.approx(0.05)


def test_a_measured_run_that_beats_the_best_option_is_named_instead():
    """The law has the large base at 5.4 where it was measured at 2.3."""
    points = measured(lambda n, d, p: np.where((n == 1e6) & (d == 1e5), 2.3, 6.0))
    with pytest.raises(NoRecommendation, match=r"run 1e\+06-2 reached 2.3 at 100,000 tokens, 4.01e\+11 FLOPs, 10 s") as refused:
        plan(fitted(), points, "6e11flops")
    assert refused.value.measured["run"] == "1e+06-2"
    assert refused.value.to_json()["recommendation"] is None
    assert refused.value.words().startswith("no recommendation: a measured run already beats what could be recommended")


@pytest.mark.parametrize("budget", ["1flops", "1e6flops", "1e8flops"])
def test_a_budget_below_what_was_measured_gets_no_tokens(budget):
    with pytest.raises(NoRecommendation, match=r"4 of 4 options for which the budget buys less than the fewest tokens measured"):
        plan(fitted(), measured(), budget)


def test_a_budget_far_beyond_the_evidence_gets_the_next_runs_instead():
    with pytest.raises(NoRecommendation, match="more than 100 x beyond the tokens they were followed for") as refused:
        plan(fitted(), measured(), "1e24flops")
    runs = refused.value.measure_next
    assert [run["tokens"] for run in runs] == [1_000_000] * 3, "ten times as far as they were followed"
    assert {"model", "method", "rank", "learning_rate", "tokens", "flops"} == set(runs[0])
    assert "measure next: nano-1e+06, lora, rank 2" in refused.value.words()


def test_between_half_the_fewest_tokens_and_all_of_them_it_is_called_an_extrapolation():
    said = " / ".join(plan(fitted(), measured(), "3e9flops").warnings)
    assert "was measured from 10,000 tokens on; the plan has 7,4" in said


def test_a_rising_loss_is_never_recommended():
    """Five evaluations of each; those of the large base end 3 % above their best."""
    curve = np.array([1e4, 2e4, 4e4, 8e4, 1.6e5])
    n, r, d = (grid.ravel() for grid in np.meshgrid(SIZES, RANKS, curve, indexing="ij"))
    loss = 2 + 100 * n**-0.4 + 50 * d**-0.3
    loss = np.where((n == 1e6) & (d == 1.6e5), 1.03 * (2 + 100 * 1e6**-0.4 + 50 * 8e4**-0.3), loss)
    table = Table(
        {
            "run": np.array([f"{size:g}-{rank:g}" for size, rank in zip(n, r, strict=True)], dtype=object),
            "model": np.array([f"nano-{size:g}" for size in n], dtype=object),
            "method": np.full(len(n), "lora", dtype=object),
            "rank": r,
            "learning_rate": 0 * n + 0.01,
            "body_parameters": n,
            "trainable_parameters": r * np.sqrt(n),
            "tokens": d,
            "flops": 4 * n * d,
            "loss": loss,
        }
    )
    assert {option.model: option.rising for option in options(table)} == {"nano-100000": False, "nano-1e+06": True}
    answer = plan(fitted(), table, "2e11flops")
    assert answer.model == "nano-100000"
    assert "2 of 4 options were left out, whose measured loss was rising" in answer.warnings


def test_what_the_runs_passed_over_is_what_is_at_hand():
    """The same for everyone who plans: more examples than exist are planned by nobody, unless they are said to be there."""
    points = measured(passes=2.0, unique_tokens=1e5, unique_examples=2000.0)
    silent, told, free = (plan(fitted(), points, "4e12flops", examples=given) for given in (None, 2000, math.inf))
    assert (silent.tokens, silent.examples, silent.epochs) == (told.tokens, 2000, told.epochs)
    assert free.examples > 2000
    assumed = "2,000 examples are taken to be at hand: the runs passed over no more; --examples says otherwise"
    assert [assumed in found.warnings for found in (silent, told, free)] == [True, False, False]
    wanted = float(fitted().predict({"n": 1e6, "d": 3e5})[0])
    found = reach(fitted(), points, wanted)
    assert (found.examples, assumed in found.warnings) == (2000, True)


def test_a_penalty_in_repeats_stops_the_passes_before_the_budget_is_spent():
    law = fitted("overfitting", (2.0, 100.0, 50.0, 0.05, 0.4, 0.3, 1.5))
    law = dataclasses.replace(law, ranges={**law.ranges, "u": (1e4, 1e5)})
    points = measured(unique_tokens=1e4, unique_examples=200.0)
    answer = plan(law, points, "4e12flops", examples=2000)
    assert 1 < answer.epochs < 4 * 10
    unique = 2000 * 50
    columns = {"n": 1e6, "p": 2e3, "u": unique}
    at, fewer, more = (law.predict({**columns, "d": answer.tokens * factor})[0] for factor in (1.0, 0.8, 1.25))
    assert at < fewer
    assert at < more
    assert any("the budget is not spent" in sentence for sentence in answer.warnings)


def test_ranks_do_not_jump_as_the_budget_grows():
    law = fitted("additive+slope", (2.0, 100.0, 50.0, 0.4, 0.3, 500.0, 5e3), noise=0.001)
    points = measured(lambda n, d, p: law.predict({"n": n, "d": d, "p": p}))
    ranks = [plan(law, points, f"{budget:g}flops").method["rank"] for budget in np.geomspace(8e9, 2e13, 12)]
    assert sum(a != b for a, b in itertools.pairwise(ranks)) <= 2


def test_forgetting_is_a_limit():
    """0.02 nats a token at 10,000 tokens and 0.08 at 100,000: 0.06 a decade."""
    points = measured()
    points = Table({**points.columns, "forgetting": 0.02 + 0.06 * np.log10(points["tokens"] / 1e4)})
    free, held = plan(fitted(), points, "4e12flops"), plan(fitted(), points, "4e12flops", forget_at_most=0.1)
    assert held.tokens < free.tokens
    assert held.tokens == pytest.approx(1e5 * 10 ** (0.02 / 0.06), rel=0.1)
    with pytest.raises(NoRecommendation, match=r"4 of 4 options that forget more than 0\.001 nats a token"):
        plan(fitted(), points, "4e12flops", forget_at_most=0.001)
    with pytest.raises(TableError, match="a limit on forgetting needs a forgetting column"):
        plan(fitted(), measured(), "4e12flops", forget_at_most=0.1)


def test_serving_is_paid_for_out_of_the_budget_and_favours_the_smaller_base():
    assert parse_tokens("1e9tokens") == 1e9
    assert parse_tokens("500Mtokens") == 5e8
    served = plan(fitted(), measured(), "4e12flops", serve_tokens=1e6)
    assert served.tokens == round((4e12 - 2e6 * 1e6) / (4e6 + 6 * 2 * 1e3))
    assert plan(fitted(), measured(), "4e12flops").model == "nano-1e+06"
    assert plan(fitted(), measured(), "4e12flops", serve_tokens=1.999e6).model == "nano-100000"


def test_half_and_double_the_budget_are_told():
    answer = plan(fitted(), measured(), "4e12flops")
    assert set(answer.sensitivity) == {"half", "double"}
    half, double = answer.sensitivity["half"], answer.sensitivity["double"]
    assert half["tokens"] == pytest.approx(answer.tokens / 2, rel=1e-5)
    assert double["predicted_loss"] < answer.predicted_loss < half["predicted_loss"]
    assert "with double the budget: nano-1e+06" in str(answer)


def test_what_a_loss_takes():
    goal = 2 + 100 * 1e6**-0.4 + 50 * 4e5**-0.3
    answer = reach(fitted(), measured(), goal)
    assert answer.model == "nano-1e+06"
    assert answer.tokens == pytest.approx(4e5, rel=0.01)
    assert answer.flops == pytest.approx(answer.tokens * (4e6 + 6 * 2e3), rel=1e-5)
    assert answer.examples == pytest.approx(4e5 / 50, rel=0.01)
    assert answer.tokens_interval[0] < answer.tokens < answer.tokens_interval[1]
    with pytest.raises(
        NoRecommendation, match=r"loss of 1.9 is out of reach: the best that any option is predicted to reach within 100 x"
    ):
        reach(fitted(), measured(), 1.9)


def forgetful():
    """0.02 nats a token at 10,000 tokens and 0.08 at 100,000: 0.06 a decade."""
    points = measured()
    return Table({**points.columns, "forgetting": 0.02 + 0.06 * np.log10(points["tokens"] / 1e4)})


def test_a_goal_keeps_to_the_limit_on_forgetting():
    """It was passed over: the answer named tokens that no plan under the same limit has."""
    farthest = 1e5 * 10 ** (0.02 / 0.06)
    within = 2 + 100 * 1e6**-0.4 + 50 * (0.9 * farthest) ** -0.3
    beyond = 2 + 100 * 1e6**-0.4 + 50 * (1.1 * farthest) ** -0.3
    assert reach(fitted(), forgetful(), within, Limits(forget_at_most=0.1)).tokens == pytest.approx(0.9 * farthest, rel=1e-3)
    assert reach(fitted(), forgetful(), beyond).tokens > 1.1 * farthest
    with pytest.raises(NoRecommendation, match="out of reach"):
        reach(fitted(), forgetful(), beyond, Limits(forget_at_most=0.1))
    with pytest.raises(NoRecommendation, match="the limits leave no option as many tokens"):
        reach(fitted(), forgetful(), within, Limits(forget_at_most=0.001))


def test_more_budget_never_gives_less_under_a_limit_on_forgetting():
    """The tokens at the limit were looked for on a grid that moved with the budget: up to 1.7 % of the loss to and fro."""
    tokens = [plan(fitted(), forgetful(), f"{b:g}flops", forget_at_most=0.1).tokens for b in np.geomspace(2e12, 3e13, 12)]
    assert tokens == [pytest.approx(1e5 * 10 ** (0.02 / 0.06), abs=1)] * 12


def test_what_several_runs_forgot_at_the_same_tokens_is_their_mean():
    first, second = (measured(seed=seed, forgetting=lost) for seed, lost in ((0.0, 0.1), (1.0, 0.3)))
    both = Table({name: np.concatenate([first[name], second[name]]) for name in first.columns})
    assert [option.forgetting for option in options(both)] == [((1e4, pytest.approx(0.2)), (1e5, pytest.approx(0.2)))] * 4


def test_a_goal_is_reached_by_what_a_plan_for_its_cost_reaches():
    """Down to half of the fewest tokens measured, as a plan goes: the cheapest way lay below where the goal looked."""
    law, points = fitted(), measured()
    for goal in np.linspace(2.9, 7.5, 14):
        wanted = reach(law, points, float(goal))
        planned = plan(law, points, Budget(wanted.flops, "flops"))
        assert planned.predicted_loss <= goal * (1 + 2 * law.noise)
        assert wanted.tokens >= 5e3
    assert wanted.tokens == 5e3
    assert "nano-100000 with lora of rank 2 was measured from 10,000 tokens on: an extrapolation downwards" in wanted.warnings


def test_serving_counts_towards_a_goal():
    """The larger base gets there on fewer FLOPs, and costs ten times as much to serve."""
    without, served = reach(fitted(), measured(), 3.5), reach(fitted(), measured(), 3.5, Limits(serve_tokens=1e9))
    assert (without.model, served.model) == ("nano-1e+06", "nano-100000")
    assert served.flops == pytest.approx(served.tokens * (4e5 + 6 * 2 * np.sqrt(1e5)), rel=1e-5)
    assert "serving 1e+09 tokens takes 2e+14 FLOPs beside the training" in served.warnings
    one = measured().having("model", "nano-1e+06")
    sizeless = Table({name: column for name, column in one.columns.items() if name != "body_parameters"})
    with pytest.raises(TableError, match=r"serve: .* the table needs a column of sizes"):
        reach(fitted("power", (2.0, 50.0, 0.3)), sizeless, 3.5, Limits(serve_tokens=1e9))


def test_a_goal_that_a_run_has_reached_for_less_is_told():
    points = measured()
    points["loss"][-1] = 2.2  # a lucky run: 1e5 tokens of the larger base
    goal = 2 + 100 * 1e6**-0.4 + 50 * 4e5**-0.3
    found = reach(fitted(), points, goal)
    assert found.measured["run"] == "1e+06-8"
    assert found.to_json()["measured"]["loss"] == 2.2
    assert found.warnings[0].startswith("a measured run was there for less: run 1e+06-8 reached 2.2 at 100,000 tokens")
    assert reach(fitted(), measured(), goal).measured is None
    with pytest.raises(NoRecommendation, match=r"but run 1e\+06-8 reached 2.2 at 100,000 tokens"):
        reach(fitted("additive", (2.3, 100.0, 50.0, 0.4, 0.3)), points, 2.25)


def test_no_money_is_told_where_the_table_has_no_seconds():
    bare = Table({name: column for name, column in measured().columns.items() if name != "seconds"})
    said = "no money is told: the table has no seconds for it; --on and --utilisation take them from an accelerator"
    assert said in plan(fitted(), bare, Budget(4e12, "flops", 2.5)).warnings
    assert said in reach(fitted(), bare, 3.5, price_per_hour=2.5).warnings
    assert said not in plan(fitted(), measured(), Budget(4e12, "flops", 2.5)).warnings


def test_what_serving_takes_is_told():
    answer = plan(fitted(), measured(), "4e12flops", serve_tokens=1e6)
    assert f"serving 1e+06 tokens takes {2 * 1e6 * 1e6:.3g} FLOPs beside the training" in answer.warnings


def test_what_a_score_takes():
    points = measured(lambda n, d, p: 1 + 0 * n, f1=0.5)
    error = 0.02 + 3 * points["body_parameters"] ** -0.3 + 10 * points["tokens"] ** -0.5
    law = dataclasses.replace(fitted(theta=(0.02, 3.0, 10.0, 0.3, 0.5)), target="1 - f1", ceiling=1.0)
    answer = reach(law, Table({**points.columns, "f1": 1 - error}), 0.9)
    needed = (10 / (0.1 - 0.02 - 3 * 1e6**-0.3)) ** 2
    assert answer.tokens == pytest.approx(needed, rel=0.02)
    assert str(answer).startswith("f1 of 0.9 takes nano-1e+06 with lora")
    with pytest.raises(UserError, match="f1 of 1 cannot be reached"):
        reach(law, Table({**points.columns, "f1": 1 - error}), 1.0)
    assert parse_reach("f1=0.9") == ("f1", 0.9)
    with pytest.raises(UserError, match=r"reach 'f1' is not understood \(valid: .* loss=2.1, f1=0.9\)"):
        parse_reach("f1")


def test_names_and_flops_are_not_needed_for_a_budget_of_time():
    points = measured()
    bare = Table({name: column for name, column in points.columns.items() if name not in ("model", "flops", "method", "rank")})
    answer = plan(fitted(), bare, "2min")
    assert answer.model == "n=1M"
    assert answer.seconds == pytest.approx(120)
    with pytest.raises(TableError, match="a budget of FLOPs needs a flops column"):
        plan(fitted(), bare, "1e12flops")


def test_more_methods_than_a_law_tells_apart_get_the_best_measured_run():
    points = measured()
    names = np.array([f"method-{row}" for row in range(len(points))], dtype=object)
    with pytest.raises(NoRecommendation, match="8 methods, more than the 6 that one law tells apart") as refused:
        asked_plan(Table({**points.columns, "method": names}), "1e12flops", None, None, Limits())
    assert refused.value.measured["loss"] == points["loss"].min()


def test_a_refusal_speaks_of_its_target():
    """Without a law the best measured run stands in for advice: its accuracy, not 1 - accuracy as a loss."""
    points = measured()
    names = np.array([f"method-{row}" for row in range(len(points))], dtype=object)
    scored = Table({**points.columns, "method": names, "accuracy": 1 - points["loss"] / 10})
    with pytest.raises(NoRecommendation) as refused:
        asked_plan(scored, "1e12flops", None, None, Limits(), target="accuracy")
    best = points["loss"].min() / 10
    assert f"reached accuracy {1 - best:.4g} at" in refused.value.words()
    answer = refused.value.to_json()
    assert (answer["target"], answer["measured"]["loss"]) == ("1 - accuracy", pytest.approx(best))


def test_an_interval_that_says_nothing_is_no_recommendation():
    law = dataclasses.replace(fitted(), drift=0.3)
    with pytest.raises(NoRecommendation, match=r"the evidence leaves loss between .* too wide to choose by"):
        plan(law, measured(), "4e12flops")


def test_an_asked_plan_tells_what_its_fit_assumed() -> None:
    """`plan` fits by itself: what it left out and took for what is said there too, in refusals as well."""
    rng = np.random.default_rng(0)
    rows = [(n, d) for n in (1e8, 3e8, 1e9) for d in 1e8 * 2.0 ** np.arange(8)]
    n, d = (np.array(column) for column in zip(*rows, strict=True))
    loss = (1.8 + 400 * n**-0.34 + 900 * d**-0.35) * np.exp(0.002 * rng.standard_normal(len(n)))
    columns = {"params": n, "tokens": d, "flops": 6 * n * d, "eval_loss": loss, "width": n / 1e5, "model": n.astype(str)}
    table = from_columns({name: list(values) for name, values in columns.items()}, {})
    said = ("column 'params' was read as body_parameters", "no law reads column width")
    found = asked_plan(table, f"{2 * (6 * n * d).max()}flops", None, None, Limits(), bootstrap=20)
    assert set(said) <= set(found.warnings)
    assert len(set(found.warnings)) == len(found.warnings)
    reached = asked_plan(table, None, "loss=2.4", None, Limits(), bootstrap=20)
    assert set(said) <= set(reached.warnings)
    with pytest.raises(NoRecommendation) as refusal:
        asked_plan(table, "1e30flops", None, None, Limits(), bootstrap=20)
    assert set(said) <= set(refusal.value.warnings) == set(refusal.value.to_json()["warnings"])
    assert "  mind: no law reads column width" in refusal.value.words().splitlines()


def test_passes_follow_from_unique_tokens():
    """A table of somebody's own has no column of passes; the plan counted on examples that nobody has."""
    repeated = measured(unique_tokens=5e4, unique_examples=1000.0)
    found = plan(fitted(), repeated, "4e12flops")
    assert (found.examples, found.epochs > 1) == (1000, True)
    assert any("1,000 examples are taken to be at hand" in sentence for sentence in found.warnings)
    assert plan(fitted(), measured(), "4e12flops").epochs == 1
    untold = Table({name: column for name, column in repeated.columns.items() if name != "unique_examples"})
    said = "as many new tokens are counted on as are taken"
    assert [
        any(said in sentence for sentence in plan(fitted(), table, "4e12flops").warnings) for table in (untold, repeated)
    ] == [
        True,
        False,
    ]


def test_the_largest_base_measured_is_so_among_all():
    """A base that a limit on memory leaves out was measured all the same."""
    said = "nano-100000 is the largest base measured"
    small = plan(fitted(), measured(), "4e11flops", memory_bytes=5e6)
    assert small.model == "nano-100000"
    assert not any(sentence.startswith(said) for sentence in small.warnings)
    assert not any("is the smallest base measured" in sentence for sentence in small.warnings)  # no larger one could be chosen
    assert "2 of 4 options were left out, which need more memory" in small.warnings
    large = plan(fitted(), measured(), "4e12flops")
    assert any("nano-1e+06 is the largest base measured" in sentence for sentence in large.warnings)


def test_examples_have_one_length_for_all_ranks_of_a_base():
    """A run of few examples tells it less well: rank 8 had seemed to get 40 % more tokens out of the same 1,000 examples."""
    points = measured()
    few_M = (points["rank"] == 8).astype(bool)
    shorter = np.where(few_M, points["tokens"] / 70, points["tokens"] / 50)
    table = Table({**points.columns, "unique_examples": shorter})
    assert {option.tokens_per_example for option in options(table)} == {50.0}
    longer = Table({**points.columns, "unique_examples": np.where(few_M, points["tokens"] / 40, points["tokens"] / 50)})
    assert {option.tokens_per_example for option in options(longer)} == {40.0}


def test_no_measured_run_is_within_a_budget_that_cannot_serve_it():
    """2 FLOPs a weight and token: 1e6 weights take 2e12 for 1e6 tokens, 1e5 weights a tenth."""
    points = measured()
    assert best_measured(points, Budget(1.9e12, "flops"), serve_tokens=1e6)["model"] == "nano-100000"
    assert best_measured(points, Budget(1.9e11, "flops"), serve_tokens=1e6) is None
    assert best_measured(points, Budget(1.9e12, "flops"))["model"] == "nano-1e+06"
    with pytest.raises(NoRecommendation) as refused:
        plan(fitted(), points, "1.9e11flops", serve_tokens=1e6)
    assert refused.value.measured is None
    assert refused.value.measure_next == ()


def test_half_of_a_charged_budget_is_half_of_the_whole():
    whole = Budget(6.0, "flops", charged=4.0)
    assert whole.scaled(0.5).amount == 1.0
    assert whole.scaled(2.0).amount == 16.0
    assert whole.scaled(2.0).charged == 4.0


def test_a_goal_has_its_interval_in_all_that_it_takes():
    found = reach(fitted(), measured(), 3.9, price_per_hour=2.0)
    (low, high), each = found.tokens_interval, found.flops / found.tokens
    assert low < found.tokens < high
    assert found.flops_interval == pytest.approx((low * each, high * each), rel=1e-3)
    assert found.examples_interval == pytest.approx((low / 50, high / 50), abs=1)
    assert found.money_interval == pytest.approx(tuple(2 / 3600 * end for end in found.seconds_interval))
    words = str(found)
    assert f"95 % interval {low:,} to {high:,} tokens" in words
    assert all(unit in words.splitlines()[1] for unit in ("examples", "FLOPs", "in money"))


def test_far_below_the_points_no_interval_reaches_a_goal():
    """Extrapolated downwards an interval is wide, and its lower end under any goal: that is no way to get there."""
    drifting = dataclasses.replace(fitted(), drift=2.0, ranges={"n": SIZES, "d": (9e4, 1e5)})
    wide, seen = reach(drifting, measured(), 3.9), reach(fitted(), measured(), 3.9)
    lowest = least_tokens(float(TOKENS.min()))
    assert drifting.interval({"n": np.array([1e6]), "d": np.array([lowest])})[0][0] < 3.9
    assert wide.tokens_interval[0] > 2 * lowest
    assert wide.tokens == seen.tokens
