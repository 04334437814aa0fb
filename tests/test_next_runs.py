"""What to measure next, and which base wins when: worth of a run, the study file, switches, N* and D*."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import studies
from test_plan import fitted, measured

from isolora import cli
from isolora.config import StudyConfig, load_study, parse
from isolora.errors import ConfigError
from isolora.plan import Budget, options, plan
from isolora.plan.choice import optimum, sizes_words, switches
from isolora.plan.limits import Limits
from isolora.plan.next_runs import next_runs, steps_towards
from isolora.plan.next_study import next_study
from isolora.study.design import grid_runs
from isolora.table import Table

THETA = (2.0, 100.0, 50.0, 0.4, 0.3)


def unsure(spread=(0.0, 0.0, 0.0, 0.0, 0.0), count=200, **more):
    """A fit whose draws disagree about some parameters."""
    rng = np.random.default_rng(3)
    return replace(fitted(**more), draws=np.array(THETA) * np.exp(rng.normal(size=(count, 5)) * np.array(spread)))


def test_the_run_that_explains_most_for_its_flops_comes_first():
    """Only the data's exponent is unknown: the cheap base tells it as well as the dear one."""
    law = unsure((0.0, 0.0, 0.0, 0.0, 0.05))
    runs = next_runs(law, options(measured()), Budget(1e14, "flops"))
    assert runs[0]["model"] == "nano-100000"
    assert all(run["tokens"] in (200_000, 400_000, 1_000_000) for run in runs)
    assert [run["tokens"] for run in runs] == sorted(run["tokens"] for run in runs)


def test_draws_that_agree_leave_the_steps_on_the_way():
    """Where nothing is unknown there is nothing to learn: the steps on the way to the budget."""
    known = unsure((0.0, 0.0, 0.0, 0.0, 0.0))
    assert next_runs(known, options(measured()), Budget(1e14, "flops")) == steps_towards(
        options(measured()), Budget(1e14, "flops")
    )


def test_nothing_longer_than_the_budget_is_proposed():
    law = unsure((0.0, 0.0, 0.0, 0.0, 0.05))
    largest = max(option.largest_flops for option in options(measured()))
    runs = next_runs(law, options(measured()), Budget(largest, "flops"))
    assert max(run["flops"] for run in runs) <= largest * 1.001


def test_an_extrapolating_plan_says_what_would_narrow_it():
    law = unsure((0.0, 0.0, 0.0, 0.0, 0.02))
    found = plan(law, measured(), "5e12flops")
    assert any("an extrapolation" in sentence for sentence in found.warnings)
    assert found.measure_next
    assert "measure next: nano" in str(found)
    assert not plan(law, measured(), "3e11flops").measure_next, "within what was measured"


def three_sizes(tokens=(1e4, 1e5)):
    """As `measured`, with a base between the two, and prices of 6 n a token."""
    sizes = (1e5, 3e5, 1e6)
    n, d = (grid.ravel() for grid in np.meshgrid(sizes, tokens, indexing="ij"))
    names = [f"nano-{size:g}" for size in n]
    text = {"run": names, "model": names, "method": ["lora"] * len(n), "stage": ["grid"] * len(n)}
    numbers = {"rank": np.full(len(n), 8.0), "learning_rate": np.full(len(n), 0.01), "body_parameters": n}
    numbers |= {"trainable_parameters": 8 * np.sqrt(n), "tokens": d, "flops": 6 * n * d, "loss": 2 + 100 * n**-0.4 + 50 * d**-0.3}
    return Table({**{key: np.array(values, dtype=object) for key, values in text.items()}, **numbers})


def best_size(budget):
    """Of 2 + 100 n^-0.4 + 50 d^-0.3 on 6 n d FLOPs: the root of its derivative."""
    return (0.4 * 100 / (0.3 * 50) * (budget / 6) ** 0.3) ** (1 / 0.7)


def test_the_optimum_is_the_laws_own():
    budget, table = 4e10, three_sizes()
    choice = next(option for option in options(table) if option.model == "nano-300000")
    found = optimum(unsure((0.0, 0.0, 0.0, 0.0, 0.01)), options(table), choice, Budget(budget, "flops"), Limits())
    assert found["body_parameters"] == pytest.approx(best_size(budget), rel=0.05)
    assert found["tokens"] == pytest.approx(budget / 6 / found["body_parameters"], rel=1e-6)
    low, high = found["body_parameters_interval"]
    assert low < found["body_parameters"] < high
    assert not found["at_edge"]
    assert optimum(fitted(), options(measured()), options(measured())[0], Budget(1e11, "flops"), Limits()) is None, "two sizes"


def test_larger_bases_take_over_where_the_law_says_so():
    """Two sizes are equal where 100 (n1^-0.4 - n2^-0.4) = 50 ((C / 6 n2)^-0.3 - (C / 6 n1)^-0.3)."""
    found = plan(fitted(noise=1e-6), three_sizes(), "2e10flops")
    models = [switch["model"] for switch in found.switches]
    assert models == sorted(models, key=lambda name: float(name.removeprefix("nano-")))
    for switch, (small, large) in zip(found.switches, ((1e5, 3e5), (3e5, 1e6)), strict=True):
        assert switch["model"] == f"nano-{large:g}"
        gain = 100 * (small**-0.4 - large**-0.4)
        equal = (gain / (50 * ((6 * large) ** 0.3 - (6 * small) ** 0.3))) ** (-1 / 0.3)
        assert equal / 1.25 < switch["budget_flops"] < equal * 1.6  # prudence waits a little
    assert "would win" in str(found)
    assert json.loads(json.dumps(found.to_json()))["switches"] == list(found.switches)


@pytest.mark.parametrize(("unit", "key"), [("flops", "budget_flops"), ("seconds", "seconds")])
def test_switches_agree_with_what_is_chosen_for_the_budget(unit, key):
    """The budget lay between two that were tried, so that a base that had just been recommended "would win" later."""
    asked = 1e12 if unit == "flops" else 100.0
    for start in np.geomspace(asked / 10, asked * 10, 7):
        found = switches(
            lambda budget, start=start: {"model": "large" if budget.amount >= start else "small", "flops": 7.0},
            options(measured()),
            Budget(asked, unit),
        )
        assert [switch["model"] for switch in found] == ["large"]
        assert found[0][key] == pytest.approx(start, rel=0.12)
        assert (found[0][key] <= asked) == (start <= asked)
        said = next(iter(sizes_words("large" if start <= asked else "small", found, None, Budget(asked, unit))))
        assert said.startswith("  large wins from" if start <= asked else "  from ")


def test_an_absurd_run_does_not_make_the_search_for_switches_endless():
    """One cell of 1e308 tokens: budgets were looked at up to infinity."""
    asked = []
    absurd = [replace(option, largest_tokens=1e308) for option in options(measured())]
    assert switches(lambda budget: asked.append(budget.amount), absurd, Budget(1e12, "flops")) == []
    assert (len(asked), max(asked)) == (163, pytest.approx(1e24))


def test_words_of_sizes():
    best = {"body_parameters": 5e5, "body_parameters_interval": [4e5, 6e5], "tokens": 1e5, "tokens_interval": [8e4, 1e5]}
    found = [{"budget_flops": 1e10, "model": "b"}, {"budget_flops": 1e12, "model": "c"}]
    said = list(sizes_words("b", found, {**best, "at_edge": False}, Budget(1e11, "flops")))
    assert said[0] == "  from 1e+12 FLOPs on, c would win"
    assert said[1] == "  b wins from 1e+10 FLOPs on"
    assert said[2].startswith("  of all sizes the law would take 5e+05 weights [4e+05, 6e+05]")
    assert "or beyond" in next(iter(sizes_words("b", [], {**best, "at_edge": True}, Budget(1e11, "flops"))))


RUN = {"model": "nano-55k", "method": "lora", "rank": 8, "learning_rate": 0.01, "tokens": 20_000, "flops": 1e9}


def test_the_next_study_of_a_study_trains(tmp_path: Path):
    """Over the study's own base, with the values that its grid held fixed; another method comes without the base's fields."""
    base = studies.base(tmp_path, tokens=300, batch_tokens=60)
    study = parse(StudyConfig, {"base": base, "grid": {"method.alpha": [32.0], "method.rank": [2, 4]}})
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.json").write_text(json.dumps({"study": study.model_dump()}))
    runs = [{**RUN, "model": base["model"]}, {**RUN, "model": base["model"], "method": "bottleneck", "rank": None}]
    file = tmp_path / "next.yaml"
    file.write_text(next_study(file, tmp_path / "study", runs))
    loaded = load_study(file)
    lora, bottleneck = grid_runs(loaded)
    assert (lora.method.name, lora.method.fields()["alpha"], lora.method.fields()["rank"]) == ("lora", 32.0, 8)
    assert (lora.training.tokens, lora.training.learning_rate, lora.training.batch_tokens) == (20_000, 0.01, 60)
    assert bottleneck.method.name == "bottleneck"
    assert lora.seed != bottleneck.seed, "each run has its own seed, as in a grid"


def test_the_next_study_of_a_table_names_its_placeholders(tmp_path: Path):
    file = tmp_path / "next.yaml"
    file.write_text(
        next_study(file, tmp_path / "table.csv", [{**RUN, "model": "n=1e+08", "rank": None, "learning_rate": np.nan}])
    )
    assert file.read_text().count("PLACEHOLDER: ") == 3
    assert load_study(file).runs == [{"model": "n=1e+08", "training.tokens": 20_000}]


def test_the_verb_writes_the_next_runs(tmp_path: Path, monkeypatch, capsys):
    table, file = three_sizes((1e4, 2e4, 4e4, 8e4)), tmp_path / "next.yaml"
    rows = [",".join(table.columns)]
    rows += [",".join(str(table[name][i]) for name in table.columns) for i in range(len(table))]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    words = [
        "isolora",
        "plan",
        str(tmp_path / "t.csv"),
        "--budget",
        "2e12flops",
        "--law",
        "additive",
        "--next",
        str(file),
        "--json",
    ]
    for code in (0, 2):  # the second time the file is there
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert (ended.value.code or 0) in (code, 2)
    assert load_study(file).runs
    assert "exists already; name another" in capsys.readouterr().err


def test_runs_one_by_one_join_a_grid():
    base = {"training": {"tokens": 1000}}
    alone = parse(StudyConfig, {"base": base, "runs": [{"model": "nano-55k", "method.rank": 2}, {"training.tokens": 2000}]})
    assert [(run.model, run.training.tokens) for run in grid_runs(alone)] == [("nano-55k", 1000), ("nano-1m", 2000)]
    both = parse(StudyConfig, {"base": base, "grid": {"method.rank": [2, 4]}, "runs": [{"training.tokens": 2000}]})
    assert len(grid_runs(both)) == 3
    with pytest.raises(ConfigError, match="tune: is for a grid; runs have their values"):
        parse(
            StudyConfig, {"base": base, "grid": {"method.rank": [2]}, "runs": [{}], "tune": {"over": "method.rank", "tokens": 9}}
        )
