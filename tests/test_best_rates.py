"""A study over numbers of examples has a best learning rate for each: kept, flagged and recommended as its trials found."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from isolora.fit import best_learning_rates, fit, studied
from isolora.fit.best_rates import rates_at_the_edge
from isolora.fit.fit_points import trials_of_rates
from isolora.plan import options, plan
from isolora.plan.limits import kept_examples
from isolora.table import Table

SIZES, EXAMPLES, RATES = (1e5, 3e5, 1e6), (100, 500), (0.001, 0.003, 0.01)


def best(size, examples):
    """On 100 examples the middle rate, on 500 the smallest; the largest base takes the smallest on both."""
    return 0.003 if examples == 100 and size < 1e6 else 0.001


def study(stage="grid"):
    """Trials of three rates at 4,000 tokens in each cell, then the best of them; 50 tokens an example. The largest rate diverged
    wherever it was tried with 500 examples."""
    rows = []
    for size in SIZES:
        for examples in EXAMPLES:
            config = json.dumps({"data": {"train_examples": examples}})
            tried = [(rate, "tune", 4e3) for rate in RATES if not (rate == 0.01 and examples == 500)]
            for rate, part, tokens in [*tried, *((best(size, examples), stage, 4e3 * 2**k) for k in range(7))]:
                unique = min(tokens, examples * 50)
                off = 1 + 0.02 * abs(math.log(rate / best(size, examples)))
                worth = unique * (1 + 5 * (1 - math.exp(-(tokens / unique - 1) / 5)))
                loss = off * (2 + 100 * size**-0.4 + 50 * worth**-0.3)
                run = f"{size:g}-{examples}-{rate:g}-{part}"
                found = {"run": run, "stage": part, "model": f"nano-{size:g}", "method": "lora", "config": config, "rank": 8.0}
                found |= {
                    "body_parameters": size,
                    "trainable_parameters": 8 * size**0.5,
                    "tokens": tokens,
                    "flops": 6 * size * tokens,
                }
                found |= {"unique_tokens": unique, "unique_examples": unique / 50, "passes": tokens / unique, "loss": loss}
                rows.append({**found, "learning_rate": rate})
    texts = ("run", "stage", "model", "method", "config")
    return Table({name: np.array([row[name] for row in rows], dtype=object if name in texts else float) for name in rows[0]})


def test_a_rate_is_the_best_of_its_own_number_of_examples():
    """Those of 500 examples were dropped, as of another rate than the best of base and rank."""
    runs = studied(study())
    assert len(best_learning_rates(runs)) == len(runs) == 42
    found = fit(study(), bootstrap=0)
    assert not [reason for reason in found.left_out if "learning rates" in reason]


def test_a_search_tries_each_number_once_and_its_rates_compete():
    """A search has no trials of rates: every number of examples would keep whatever it was tried with."""
    runs = studied(study("search"))
    assert {(row.rpartition("-")[0]) for row in best_learning_rates(runs)["run"]} == {
        "100000-500-0.001",
        "300000-500-0.001",
        "1e+06-100-0.001",
        "1e+06-500-0.001",
    }


def test_edges_are_those_of_the_trials():
    """As `isolora study` says: a rate that diverged was tried, and all cells try the same."""
    trials = trials_of_rates(study())
    names = ["nano-100000", "nano-1e+06", "nano-300000"]
    expected = {f"{name}, lora, rank 8, 500 examples" for name in names} | {"nano-1e+06, lora, rank 8, 100 examples"}
    assert set(rates_at_the_edge(studied(study()), trials)) == expected
    diverged = trials.where(~((trials["learning_rate"] == 0.01) & (trials["body_parameters"] < 1e6)))
    assert set(rates_at_the_edge(studied(study()), diverged)) == expected
    assert any("is at the edge of those tried" in remark for remark in fit(study(), bootstrap=0).remarks)


@pytest.mark.parametrize(
    ("examples", "rate"), [(100, 0.003), (200, 0.003), (400, 0.001), (500, 0.001), (None, 0.001), (math.inf, 0.001)]
)
def test_the_rate_recommended_is_that_of_the_examples_at_hand(examples, rate):
    small = study()
    small = replace(small, columns={name: column[small["body_parameters"] == 1e5] for name, column in small.columns.items()})
    assert [option.rates for option in options(small)] == [((100.0, 0.003), (500.0, 0.001))]
    law = replace(fit(study(), bootstrap=0), noise=0.002)
    found = plan(law, small, "3e11flops", examples=examples)
    assert found.learning_rate == rate
    assumed = "500 examples are taken to be at hand: the runs passed over no more; --examples says otherwise"
    assert (assumed in found.warnings) == (examples is None)


def test_what_is_at_hand_is_the_most_that_any_run_saw():
    """Runs of 500 examples that ended before their second pass did not count."""
    once = study()
    once = once.where((once["unique_examples"] <= 100) | (once["tokens"] <= 16e3))
    assert kept_examples(once, None)[0] == 320
    unrepeated = once.where(once["passes"] <= 1)
    assert kept_examples(unrepeated, None) == (None, ()), "there may be more"
