"""Searches: suggested, pruned, cut off and resumed; the trials come out the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from studies import RANK, RATE, SPACE, a_search, points, search_base, trials
from typer.testing import CliRunner

from isolora.cli import app
from isolora.config import RunConfig, StudyConfig, parse
from isolora.errors import ConfigError, MissingExtra
from isolora.store import DONE, PRUNED, RUNNING, Store
from isolora.study.running import run_study
from isolora.study.search import search_result
from isolora.table import read
from isolora.training.stack import Stack

torch.set_num_threads(1)
pytest.importorskip("optuna")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return search_base(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def whole(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyConfig, Store]:
    """A search that nothing came in the way of."""
    study = a_search(base, final={"training.tokens": 1000})
    return study, run_study(study, tmp_path_factory.mktemp("whole"), quiet=True)


def test_search_prunes_and_trains_the_best(whole: tuple[StudyConfig, Store]) -> None:
    study, store = whole
    rows, found = trials(study, store.folder), search_result(study, store)
    assert [row["number"] for row in rows] == list(range(8))
    assert [row["round"] for row in rows] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert {row["state"] for row in rows} == {DONE, PRUNED}
    for row in rows:
        curve = [point["loss"] for point in store.points(row["run"])]
        assert list(json.loads(row["curve"]).values()) == curve
        assert len(curve) == 5 if row["state"] == DONE else len(curve) < 5
    assert found.value == min(row["value"] for row in rows if row["state"] == DONE)
    [last] = [run for run in store.runs() if run["stage"] == "final"]
    config = parse(RunConfig, json.loads(last["config"]))
    assert (config.training.learning_rate, last["rank"]) == (found.best[RATE], found.best[RANK])
    assert config.training.tokens == 1000
    assert Path(found.final["adapter"]) == store.folder / "adapter"
    assert (store.folder / "adapter" / "adapter_model.safetensors").is_file()


def test_what_pruning_saved_is_the_rest_of_the_budgets(whole: tuple[StudyConfig, Store]) -> None:
    study, store = whole
    found, states = search_result(study, store), store.states()
    pruned = [point for point in store.points() if states[point["run"]] == PRUNED]
    spent = {point["run"]: (point["tokens"], point["flops"]) for point in pruned}
    assert found.saved_tokens == pytest.approx(sum(800 - tokens for tokens, _ in spent.values()))
    assert found.saved_flops == pytest.approx(sum(flops * (800 / tokens - 1) for tokens, flops in spent.values()))
    reasons = {run["reason"] for run in store.runs() if run["state"] == PRUNED}
    assert all(reason.startswith("pruned at ") and reason.endswith("% of its budget") for reason in reasons)


@pytest.mark.parametrize("stack", [1, 3])
def test_a_search_that_was_killed_comes_out_the_same(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: int
) -> None:
    study, step = a_search(base, stack), Stack.step
    run_study(study, tmp_path / "whole", quiet=True)
    taken: list[int] = []
    patience = [3, 9, 12]

    def killed(running: Stack) -> None:
        taken.append(running.steps)
        if patience and len(taken) >= patience[0] and running.steps >= 6:
            raise KeyboardInterrupt
        step(running)

    monkeypatch.setattr(Stack, "step", killed)
    while patience:
        taken.clear()
        with pytest.raises(KeyboardInterrupt):
            run_study(study, tmp_path / "cut", quiet=True)
        assert RUNNING in {row["state"] for row in trials(study, tmp_path / "cut")}
        patience.pop(0)
    taken.clear()
    run_study(study, tmp_path / "cut", quiet=True)
    assert taken[0] > 0, "the stack that was cut off goes on from its checkpoint"
    assert trials(study, tmp_path / "cut") == trials(study, tmp_path / "whole")
    assert points(Store(tmp_path / "cut")) == points(Store(tmp_path / "whole"))
    taken.clear()
    run_study(study, tmp_path / "cut", quiet=True)
    assert not taken, "a second call trains nothing"


def test_a_round_that_ended_but_was_not_told(base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, keep = a_search(base, trials=6), Store.keep_trials
    run_study(study, tmp_path / "whole", quiet=True)

    def cut_off(store: Store, rows: Any) -> None:
        if any(row.state != RUNNING for row in rows):
            raise KeyboardInterrupt
        keep(store, rows)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "keep_trials", cut_off)
        with pytest.raises(KeyboardInterrupt):
            run_study(study, tmp_path / "cut", quiet=True)
    assert [row["state"] for row in trials(study, tmp_path / "cut")] == [RUNNING] * 3
    run_study(study, tmp_path / "cut", quiet=True)
    assert trials(study, tmp_path / "cut") == trials(study, tmp_path / "whole")


def test_more_trials_go_on_where_fewer_ended(base: dict[str, Any], tmp_path: Path) -> None:
    """One at a time, they are those of a search that was as long from the start; in a stack the last places had stayed empty."""
    for stack in (1, 2):
        few, grown = a_search(base, stack, trials=4), a_search(base, stack, trials=6)
        run_study(few, tmp_path / f"grown-{stack}", quiet=True)
        before = trials(few, tmp_path / f"grown-{stack}")
        run_study(grown, tmp_path / f"grown-{stack}", quiet=True)
        assert trials(grown, tmp_path / f"grown-{stack}")[:4] == before
        assert len(trials(grown, tmp_path / f"grown-{stack}")) == 6
    run_study(a_search(base, 1, trials=6), tmp_path / "whole", quiet=True)
    assert trials(grown, tmp_path / "grown-1") == trials(grown, tmp_path / "whole")


def test_an_equal_suggestion_is_not_trained_twice(base: dict[str, Any], tmp_path: Path) -> None:
    study = a_search(base, space={RANK: [2, 4]}, pruner="none", trials=5)
    store = run_study(study, tmp_path, quiet=True)
    rows = trials(study, tmp_path)
    assert len(rows) == 5
    assert len([run for run in store.runs() if run["stage"] == "search"]) == 2
    by_run = {row["run"]: (row["state"], row["value"], row["curve"]) for row in rows}
    assert all(by_run[row["run"]] == (row["state"], row["value"], row["curve"]) for row in rows)
    assert search_result(study, store).runs == 2


def test_a_diverged_trial_is_never_the_best(base: dict[str, Any], tmp_path: Path) -> None:
    study = a_search(base, space={RATE: [1e-2, 1e30]}, pruner="none", trials=4)
    store = run_study(study, tmp_path, quiet=True)
    assert set(search_result(study, store).states) == {"complete", "diverged"}
    assert search_result(study, store).best == {RATE: 1e-2}
    lost = a_search(base, space={RATE: [1e29, 1e30]}, trials=2)
    with pytest.raises(ConfigError, match="none of 2 trials came to its end"):
        run_study(lost, tmp_path / "lost", quiet=True)


def test_points_of_pruned_runs_are_points_of_the_table(whole: tuple[StudyConfig, Store]) -> None:
    store = whole[1]
    table = read(store.folder)
    assert len(table) == len(store.points())
    assert PRUNED in set(table["state"])


def test_a_score_is_maximized(tmp_path: Path) -> None:
    rows = [{"text": tiny.words(4, seed), "label": "low" if int(tiny.words(4, seed)[1:3]) < 30 else "high"} for seed in range(60)]
    run = tiny.from_rows(tmp_path, "bert", "sequence-classification", rows, tokens=600, evaluate_from=100, learning_rate=5e-2)
    study = a_search(run.model_dump(), space={RATE: [1e-6, 5e-2]}, metric="accuracy", trials=4)
    store = run_study(study, tmp_path / "out", quiet=True)
    ends = {row["value"] for row in trials(study, tmp_path / "out") if row["state"] == DONE}
    assert search_result(study, store).value == max(ends)
    assert search_result(study, store).best == {RATE: 5e-2}


@pytest.mark.parametrize(
    ("search", "line"),
    [
        ({"space": {}}, "search.space: expected at least one dotted key of a run with its values"),
        ({"space": {RANK: []}}, "search.space.method.rank: expected a list of values, or low and high (got [])"),
        ({"space": {RATE: 3}}, "search.space.training.learning_rate: expected a list of values, or low and high (got 3)"),
        ({"space": {RATE: {"low": 2, "high": 1}}}, "search.space.training.learning_rate: low must be below high (got 2 and 1)"),
        ({"space": {RATE: {"low": 0, "high": 1, "log": True}}}, "log asks for a low above 0 (got 0)"),
        ({"space": {RATE: {"low": 1}}}, "search.space.training.learning_rate.high: Field required"),
        ({"space": {RATE: {"low": 1, "hihg": 2}}}, "unknown key 'hihg'; did you mean 'high'?"),
        ({"space": {"training.lerning_rate": [1]}}, "unknown key 'lerning_rate'; did you mean 'learning_rate'?"),
        ({"space": {RANK: [2, "many"]}}, "method.rank: Input should be a valid integer"),
        ({"space": SPACE, "sampler": "grid"}, "search.sampler: Input should be 'tpe' or 'random' (got 'grid')"),
        ({"space": SPACE, "pruner": "axe"}, "search.pruner: Input should be 'hyperband', 'median' or 'none' (got 'axe')"),
        ({"space": SPACE, "metric": "lss"}, "search.metric: unknown measure 'lss'; did you mean 'loss'?"),
    ],
)  # fmt: skip
def test_mistakes_take_one_line(base: dict[str, Any], tmp_path: Path, search: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as failure:
        run_study(parse(StudyConfig, {"base": base, "search": search}), tmp_path / "out", quiet=True)
    assert line in str(failure.value)
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "out").exists(), "nothing was begun"


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"grid": {RANK: [1]}, "search": {"space": SPACE}}, "exactly one of grid, search says what is run; found both"),
        ({}, "exactly one of grid, search says what is run; found none"),
        ({"grid": {RANK: [1]}, "final": {"seed": 1}}, "final: follows a search, and there is none"),
        ({"search": {"space": SPACE}, "tune": {"tokens": 3}}, "tune: is for a grid; a search prunes instead"),
    ],
)
def test_a_study_is_a_grid_or_a_search(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        parse(StudyConfig, {"base": {}, **fields})


def test_without_optuna(base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"optuna is not installed; get it with: pip install 'isolora\[optuna\]'"):
        run_study(a_search(base), tmp_path / "out", quiet=True)


def test_the_verb_tells_of_the_search(base: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(json.dumps(a_search(base, trials=4, metric="perplexity").model_dump()))
    answer = CliRunner().invoke(app, ["study", str(file), "--out", str(tmp_path / "out"), "--json"])
    assert answer.exit_code == 0, answer.stderr
    told_of = json.loads(answer.stdout)["search"]
    assert set(told_of) == {"metric", "best", "value", "states", "runs", "final"} | {
        f"{saved}{unit}" for saved in ("", "saved_") for unit in ("flops", "tokens")
    }
    assert set(told_of["best"]) == set(SPACE)
    assert told_of["value"] == pytest.approx(np.exp(told_of["final"]["loss"])), "the final training is the best trial's own"


@pytest.mark.slow
def test_two_workers_agree_with_themselves(base: dict[str, Any], tmp_path: Path) -> None:
    study = a_search(base, stack=2)
    for folder in ("once", "twice"):
        run_study(study, tmp_path / folder, workers=2, quiet=True)
    assert [row["round"] for row in trials(study, tmp_path / "once")] == [0] * 4 + [1] * 4
    assert trials(study, tmp_path / "once") == trials(study, tmp_path / "twice")
