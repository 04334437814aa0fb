"""What is chosen as the budget grows: no option goes beyond the evidence, and more budget never gives less."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plan import fitted, measured

from isolora.plan import Budget, Limits, options, plan
from isolora.plan.choice import chosen_at, frontier
from isolora.table import Table


def followed(sizes, tokens, passes=1.0):
    """Three bases, each followed for a length of its own, at 6 FLOPs a weight and token."""
    n = np.repeat(sizes, 3)
    d = np.concatenate([np.array([0.25, 0.5, 1.0]) * most for most in tokens])
    names = np.array([f"base-{size:g}" for size in n], dtype=object)
    text = {"run": names, "model": names, "method": np.full(len(n), "lora", dtype=object)}
    numbers = {"rank": np.full(len(n), 8.0), "body_parameters": n, "trainable_parameters": 8 * np.sqrt(n), "tokens": d}
    numbers |= {
        "flops": 6 * n * d,
        "unique_tokens": d / passes,
        "unique_examples": d / passes / 50,
        "loss": np.full(len(n), 60.0),
    }
    return Table({**text, **numbers})


def test_what_a_budget_leaves_beyond_the_evidence_is_not_spent():
    """The small base may see 1e7 tokens, which is 4.1e12 FLOPs: it was dropped beyond them, and the large one, which reaches
    2.493 on half as many tokens, took its place."""
    law = fitted(theta=(2.0, 1.0, 50.0, 0.4, 0.3))
    found = plan(law, measured(), "2e13flops")
    assert (found.model, found.tokens) == ("nano-100000", 10_000_000)
    assert found.flops == pytest.approx(1e7 * (4e5 + 6 * 2 * np.sqrt(1e5)))
    assert found.predicted_loss == pytest.approx(2 + 1e5**-0.4 + 50 * 1e7**-0.3)
    assert found.budget == Budget(2e13, "flops")
    said = "the budget is not spent: 100 x the tokens that nano-100000 with lora of rank 2 was followed for are the most"
    assert any(sentence.startswith(said) for sentence in found.warnings)
    assert found.to_json()["budget"]["amount"] == 2e13
    assert frontier(law, options(measured()), [2e13])["loss"] == pytest.approx([found.predicted_loss])


LOGS = st.floats(0.0, 1.0)


@settings(max_examples=30, deadline=None)
@given(shape=st.tuples(*[LOGS] * 4), lengths=st.tuples(*[LOGS] * 3), examples=st.sampled_from([None, 2_000]), law=st.booleans())
def test_a_larger_budget_never_gives_a_worse_prediction(shape, lengths, examples, law):
    """Bases followed for 1e4 to 1e6 tokens each, under laws from nearly flat to steep in size and data, with and without repeats;
    equal relative widths, so that prudence is no reason to prefer another base."""
    a, b, alpha, beta = shape
    exponents = (0.1 + 0.4 * alpha, 0.1 + 0.4 * beta)
    name, end = ("data-constrained", (*exponents, 5.0)) if law else ("additive", exponents)
    fit = dataclasses.replace(fitted(name, (2.0, 10 ** (3 * a), 10 ** (3 * b), *end)), drift=0.0)
    table = followed((1e5, 1e6, 1e7), [10 ** (4 + 2 * length) for length in lengths])
    smallest, choices = float(table["tokens"].min()), options(table)
    budgets = np.geomspace(table["flops"].min(), 99 * table["flops"].max(), 30)
    chosen = [chosen_at(fit, choices, Limits(examples), smallest, Budget(float(budget), "flops")) for budget in budgets]
    assert all(chosen)
    for fewer, more in itertools.pairwise(chosen):
        assert more["predicted_loss"] <= fewer["predicted_loss"] * (1 + 1e-9), (fewer, more)


def test_less_for_more_is_explained():
    """The small base lies far beyond what it was followed for, and its interval is wide: a sure base is taken for it."""
    law = dataclasses.replace(fitted(theta=(2.0, 20.0, 50.0, 0.4, 0.3)), drift=0.05)
    table = followed((1e5, 1e6, 1e7), (1e4, 1e5, 1e6))
    explained = 0
    for budget in np.geomspace(1e11, 1e14, 30):
        found = plan(law, table, f"{budget:g}flops")
        half = found.sensitivity["half"]
        worse = half["predicted_loss"] < found.predicted_loss * (1 - 0.002)
        said = f"half the budget is expected to do better, with {half['model']}, but less surely"
        assert any(said in sentence for sentence in found.warnings) == worse
        explained += worse
    assert 0 < explained < 10
