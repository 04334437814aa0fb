"""What a table of somebody's own sweep does not tell, and what sets its points apart unread: said or refused, never guessed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from isolora.cli.fits import mapping
from isolora.errors import ConfigError, TableError, UserError
from isolora.fit import Fit, fit
from isolora.plan import Limits, NoRecommendation, plan, reach
from isolora.table import Table, from_columns

SIZES, TOKENS = (5e8, 1.5e9, 7e9), 1e6 * 2.0 ** np.arange(6)


def loss(n: float, d: float) -> float:
    return float(1.6 + 300 * n**-0.34 + 400 * d**-0.30)


def sweep(spread: float = 0.003, ranks: tuple[int, ...] = (8,), gain: float = 0.0, **columns: Any) -> dict[str, list[Any]]:
    """A run for each size and rank. gain: how much less loss each doubling of the rank leaves; columns: a value for every row,
    or a function of a row."""
    luck = np.random.default_rng(3)
    rows = [
        {
            "run": f"{n:g}-{rank}",
            "model": f"m{n:g}",
            "n": n,
            "rank": rank,
            "d": d,
            "flops": 4 * n * d,
            "loss": loss(n, d) * (1 - gain * np.log2(rank)) * np.exp(luck.normal(0, spread)),
        }
        for n in SIZES
        for rank in ranks
        for d in TOKENS
    ]
    rows = [row | {name: value(row) if callable(value) else value for name, value in columns.items()} for row in rows]
    return {name: [row[name] for row in rows] for name in rows[0]}


def fitted(table: Table) -> Fit:
    return fit(table, bootstrap=50)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"examples": 500}, "examples: the table does not say how many tokens its examples have"),
        ({"memory_bytes": 1e9}, "memory: a limit on memory needs a peak_memory_bytes column"),
        ({"forget_at_most": 0.1}, "a limit on forgetting needs a forgetting column"),
    ],
)
def test_a_limit_on_what_no_run_tells_is_refused(limits: dict[str, Any], said: str) -> None:
    """Examples and memory had been echoed, and nothing kept to them."""
    table = from_columns(sweep(), {})
    law = fitted(table)
    with pytest.raises(TableError, match=said):
        plan(law, table, "1e18flops", **limits)
    with pytest.raises(TableError, match=said):
        reach(law, table, 3.0, Limits(**limits))


def test_a_goal_is_refused_where_a_plan_is() -> None:
    """Ranks differ by more than chance, and no law reads what tells them apart."""
    table = from_columns(sweep(ranks=(8, 64), gain=0.01), {})
    law = fitted(table)
    for ask in (lambda: plan(law, table, "1e18flops"), lambda: reach(law, table, 3.0)):
        with pytest.raises(NoRecommendation, match="reads no rank"):
            ask()


def test_options_of_unknown_memory_are_left_out_and_counted() -> None:
    table = from_columns(sweep(peak_memory_bytes=lambda row: None if row["n"] == 7e9 else 2 * row["n"]), {})
    found = plan(fitted(table), table, "2e17flops", memory_bytes=1.2e9)
    assert found.model == "m5e+08"
    assert any("1 of" in line and "whose memory no run tells" in line for line in found.warnings)


@pytest.mark.parametrize("limits", [{"examples": -1}, {"examples": 0.5}, {"serve_tokens": -1.0}, {"memory_bytes": 0}])
def test_limits_that_are_none_are_refused(limits: dict[str, Any]) -> None:
    table = from_columns(sweep(peak_memory_bytes=1e9, unique_tokens=1e6, unique_examples=1e4), {})
    with pytest.raises(UserError, match=f"{next(iter(limits))}: .* is too few"):
        plan(fitted(table), table, "1e17flops", **limits)


def test_ranks_that_no_law_can_see_are_not_chosen_among() -> None:
    """Without trained weights one curve stood for all ranks; the smallest was recommended, the worst by 3 %."""
    table = from_columns(sweep(ranks=(2, 8, 64), gain=0.006), {})
    law = fitted(table)
    assert any("reads no rank: points of rank 64 lie" in line and "of 2 " in line for line in law.remarks)
    with pytest.raises(NoRecommendation, match="map their trained weights with --map p=COLUMN, or choose one with --where rank"):
        plan(law, table, "2e17flops")


def test_ranks_that_make_no_difference_are_no_matter() -> None:
    table = from_columns(sweep(ranks=(2, 8, 64)), {})
    law = fitted(table)
    assert not any("reads no rank" in line for line in law.remarks)
    assert plan(law, table, "2e17flops").method["rank"] == 2


def test_sizes_that_too_few_points_carry_are_not_chosen_among() -> None:
    rows = [(1e9, 4e6), (1e9, 8e6), (1e9, 1.6e7), (7e9, 4e6), (7e9, 8e6)]
    columns = {name: [row[k] for row in rows] for k, name in enumerate(("n", "d"))}
    table = from_columns({**columns, "loss": [loss(n, d) for n, d in rows], "flops": [4 * n * d for n, d in rows]}, {})
    law = fitted(table)
    assert law.law == "power"
    with pytest.raises(NoRecommendation, match="2 sizes, which none of the laws tried tells apart"):
        plan(law, table, "1e17flops")


@pytest.mark.parametrize("name", ["task", "Dataset", "eval_split", "data.source"])
def test_losses_of_other_texts_are_never_pooled(name: str) -> None:
    table = from_columns(sweep(**{name: lambda row: "code" if row["n"] == 7e9 else "prose"}), {})
    with pytest.raises(TableError, match=rf"different {name} \(code, prose\).*--where {name}=code"):
        fit(table, bootstrap=0)


def test_a_text_that_sets_points_apart_is_told() -> None:
    rows = sweep(ranks=(4, 8), corpus=lambda row: "code" if row["rank"] == 8 else "prose")
    rows["loss"] = [
        value * (0.9 if corpus == "code" else 1.0) for value, corpus in zip(rows["loss"], rows["corpus"], strict=True)
    ]
    del rows["rank"]
    assert any("reads no corpus: points of corpus code lie" in line for line in fitted(from_columns(rows, {})).remarks)


def test_one_spike_is_named_and_no_noise() -> None:
    """One of 48 points at 1.6 times its loss had made 8 % of noise out of 0.3."""
    rows = sweep()
    clean = fitted(from_columns(rows, {}))
    spiked = dict(rows, loss=[value * (1.6 if k == 10 else 1.0) for k, value in enumerate(rows["loss"])])
    law = fitted(from_columns(spiked, {}))
    assert clean.noise < 0.003
    assert law.noise < 0.015
    assert any("1 of" in line and "far off the law (run 1.5e+09-8 at 16,000,000 tokens by +" in line for line in law.remarks)
    assert not any("far off the law" in line for line in clean.remarks)


def test_names_that_are_nearly_known_are_asked_about() -> None:
    """A misspelt name had left the column `loss` in place of the one that was meant."""
    with pytest.raises(TableError, match="'los' is no name that laws know; did you mean 'loss'"):
        from_columns(sweep(val=1.0), {"los": "val"})
    assert "accuracy" in from_columns(sweep(val=0.5), {"accuracy": "val"})
    with pytest.raises(ConfigError, match="--map: n is given twice"):
        mapping(["n=size", "n=weights"])
