"""Plans: budgets are parsed, tokens are exact, the best option wins, equal ranks yield to the smallest, doubts are said."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolora import laws
from isolora.errors import TableError, UserError
from isolora.fit import Fit
from isolora.plan import Budget, frontier, isoflop, options, parse_budget, parse_memory, plan
from isolora.table import Table

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


def measured():
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
        "loss": 2 + 100 * n**-0.4 + 50 * d**-0.3,
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
    with pytest.raises(UserError, match=r"^budget .*1e15flops, 90s, 30min, 2h") as caught:
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
    assert plan(steep, measured(), "4e12flops").method == {"name": "lora", "rank": 8}


def test_prices_known_better_override_those_measured():
    cheap = {("nano-1e+06", rank): 1e6 for rank in RANKS}
    assert plan(fitted(), measured(), "4e12flops", prices=cheap).tokens == 4_000_000


def test_few_examples_become_passes_and_only_a_law_of_repeats_prices_them():
    answer = plan(fitted(), measured(), "4e12flops", examples=4000)
    assert answer.examples == 4000
    assert answer.epochs == pytest.approx(answer.tokens / (4000 * 50), rel=1e-5)
    assert any("passed over" in sentence for sentence in answer.warnings)
    repeats = fitted("data-constrained", (2.0, 100.0, 50.0, 0.4, 0.3, 5.0))
    repeats = dataclasses.replace(repeats, ranges={**repeats.ranges, "u": (1e4, 1e5)})
    priced = plan(repeats, measured(), "4e12flops", examples=4000)
    assert priced.predicted_loss > answer.predicted_loss
    assert not any("passed over" in sentence for sentence in priced.warnings)


def test_memory_leaves_out_what_does_not_fit():
    assert plan(fitted(), measured(), "4e12flops", memory_bytes=5e6).model == "nano-100000"
    with pytest.raises(TableError, match="fits no option; the smallest needs"):
        plan(fitted(), measured(), "4e12flops", memory_bytes=10.0)


def test_doubts_are_said():
    said = " / ".join(plan(fitted(), measured(), "4e13flops").warnings)
    assert "the largest measured" in said
    assert "the plan is 99.7 x that" in said
    assert "is the largest base measured" in said
    untested = dataclasses.replace(fitted(), holdout={}, runs=3)
    said = " / ".join(plan(untested, measured(), "1e9flops").warnings)
    assert "nothing was held out" in said
    assert "rests on 3 runs only" in said
    rival = {"law": "power", "cut": 1e4, "parameters": 3, "error": 0.0105}
    close = dataclasses.replace(fitted(), candidates=(*fitted().candidates, rival))
    assert any("chosen narrowly" in sentence for sentence in plan(close, measured(), "1e9flops").warnings)


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
    with pytest.raises(TableError, match="no model column"):
        options(Table({"loss": np.ones(2), "run": np.array(["a", "b"], dtype=object)}))
    timeless = Table({name: column for name, column in measured().columns.items() if name != "seconds"})
    with pytest.raises(TableError, match="needs a seconds column"):
        plan(fitted(), timeless, "2h")
    assert plan(fitted(), timeless, "4e12flops").seconds is None
