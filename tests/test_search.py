"""Searches: suggested, pruned, cut off and resumed; the trials come out the same."""

from __future__ import annotations

import json
import sys
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import tiny
import torch
from typer.testing import CliRunner

from isolora.cli import app
from isolora.config import RunConfig, SearchConfig, StudyConfig, parse
from isolora.errors import ConfigError, MissingExtra
from isolora.report.search import caption, figure
from isolora.report.source import Search, search_of
from isolora.store import DIVERGED, DONE, PRUNED, RUNNING, Point, Run, Store, Trial
from isolora.study import run_study
from isolora.study.pruning import evaluation, evaluations
from isolora.study.run import describe
from isolora.study.search import identity, searched
from isolora.study.suggestions import suggest
from isolora.table import read
from isolora.training.loop import Stack

torch.set_num_threads(1)
pytest.importorskip("optuna")
RATE, RANK = "training.learning_rate", "method.rank"
SPACE = {RATE: {"low": 1e-3, "high": 1.0, "log": True}, RANK: [2, 4]}
MEASURED_ANEW = {"seconds", "peak_memory_bytes", "changed", "environment"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny model and a text file; five evaluations in a run."""
    run = tiny.from_files(tmp_path_factory.mktemp("files"), steps=1)
    training = {"tokens": 800, "batch_tokens": 50, "warmup_steps": 1, "evaluate_from": 50}
    return {
        "model": run.model,
        "data": {"source": run.data.source, "eval_examples": 5, "train_examples": 20},
        "training": training,
    }


def a_study(base: dict[str, Any], stack: int = 3, final: dict[str, Any] | None = None, **search: Any) -> StudyConfig:
    given = {"space": SPACE, "trials": 8, "startup": 4, "reduction_factor": 2, **search}
    return parse(StudyConfig, {"base": base, "search": given, "stack": stack, "final": final or {}})


@pytest.fixture(scope="module")
def whole(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyConfig, Store]:
    """A search that nothing came in the way of."""
    study = a_study(base, final={"training.tokens": 1000})
    return study, run_study(study, tmp_path_factory.mktemp("whole"), quiet=True)


def trials(study: StudyConfig, folder: Path) -> list[dict[str, Any]]:
    return [asdict(trial) for trial in Store(folder).trials(identity(study))]


def points(folder: Path) -> list[dict[str, Any]]:
    rows = sorted(Store(folder).points(), key=lambda point: (point["run"], point["tokens"]))
    return [{key: value for key, value in row.items() if key not in MEASURED_ANEW} for row in rows]


def test_search_prunes_and_trains_the_best(whole: tuple[StudyConfig, Store]) -> None:
    study, store = whole
    rows, found = trials(study, store.folder), searched(study, store)
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
    found, states = searched(study, store), store.states()
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
    study, step = a_study(base, stack), Stack.step
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
    assert points(tmp_path / "cut") == points(tmp_path / "whole")
    taken.clear()
    run_study(study, tmp_path / "cut", quiet=True)
    assert not taken, "a second call trains nothing"


def test_a_round_that_ended_but_was_not_told(base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, keep = a_study(base, trials=6), Store.keep_trials
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
    run_study(a_study(base, stack=2, trials=4), tmp_path / "grown", quiet=True)
    grown, whole = a_study(base, stack=2, trials=6), a_study(base, stack=2, trials=6)
    run_study(grown, tmp_path / "grown", quiet=True)
    run_study(whole, tmp_path / "whole", quiet=True)
    assert trials(grown, tmp_path / "grown") == trials(whole, tmp_path / "whole")


def test_an_equal_suggestion_is_not_trained_twice(base: dict[str, Any], tmp_path: Path) -> None:
    study = a_study(base, space={RANK: [2, 4]}, pruner="none", trials=5)
    store = run_study(study, tmp_path, quiet=True)
    rows = trials(study, tmp_path)
    assert len(rows) == 5
    assert len([run for run in store.runs() if run["stage"] == "search"]) == 2
    by_run = {row["run"]: (row["state"], row["value"], row["curve"]) for row in rows}
    assert all(by_run[row["run"]] == (row["state"], row["value"], row["curve"]) for row in rows)
    assert searched(study, store).runs == 2


def test_a_diverged_trial_is_never_the_best(base: dict[str, Any], tmp_path: Path) -> None:
    study = a_study(base, space={RATE: [1e-2, 1e30]}, pruner="none", trials=4)
    store = run_study(study, tmp_path, quiet=True)
    assert set(searched(study, store).states) == {DONE, DIVERGED}
    assert searched(study, store).best == {RATE: 1e-2}
    lost = a_study(base, space={RATE: [1e29, 1e30]}, trials=2)
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
    study = a_study(run.model_dump(), space={RATE: [1e-6, 5e-2]}, metric="accuracy", trials=4)
    store = run_study(study, tmp_path / "out", quiet=True)
    ends = {row["value"] for row in trials(study, tmp_path / "out") if row["state"] == DONE}
    assert searched(study, store).value == max(ends)
    assert searched(study, store).best == {RATE: 5e-2}


def test_a_score_of_the_end_is_for_searches_that_do_not_prune(tmp_path: Path) -> None:
    rows = [{"prompt": tiny.words(4, seed), "completion": tiny.words(3, seed)} for seed in range(30)]
    run = tiny.from_rows(tmp_path, "llama", {"name": "instruction", "max_new_tokens": 3}, rows, tokens=300, evaluate_from=100)
    fields = {"space": {RATE: [1e-2, 5e-2]}, "metric": "rougeL", "trials": 2}
    with pytest.raises(ConfigError, match=r"search.metric: 'rougeL' is taken at the end alone; set task.score_at or"):
        run_study(a_study(run.model_dump(), **fields), tmp_path / "out", quiet=True)
    study = a_study(run.model_dump(), pruner="none", **fields)
    store = run_study(study, tmp_path / "out", quiet=True)
    ends = [json.loads(store.points(row["run"])[-1]["metrics"])["rougeL"] for row in trials(study, tmp_path / "out")]
    assert searched(study, store).value == max(ends)


def test_a_trainer_stops_where_a_trial_is_pruned(base: dict[str, Any], tmp_path: Path) -> None:
    study = a_study({**base, "training": {**base["training"], "trainer": "hf"}}, trials=5)
    store = run_study(study, tmp_path, quiet=True)
    rows = trials(study, tmp_path)
    assert [row["round"] for row in rows] == list(range(5)), "one at a time: a Trainer has no stack"
    assert {row["state"] for row in rows} == {DONE, PRUNED}
    last = {row["run"]: row["tokens"] for row in store.points()}
    assert all((last[row["run"]] < 800) == (row["state"] == PRUNED) for row in rows)


def test_a_pruned_member_leaves_the_others_alone() -> None:
    configs = [tiny.run(seed=k, tokens=400, evaluate_from=50) for k in range(3)]
    kept: list[Point] = []
    alone = tiny.stack(configs, kept)
    cut: list[Point] = []
    pruned = tiny.stack(configs, cut)
    pruned.hopeless = lambda point: point.run == "run-1" and point.tokens >= 100
    for stack in (alone, pruned):
        while any(member.running for member in stack.members):
            stack.step()
            stack.evaluate_due()
    assert [member.progress.state for member in pruned.members] == [DONE, PRUNED, DONE]
    assert 100 <= pruned.members[1].progress.tokens < 200
    own = {name: [point.loss for point in cut if point.run == name] for name in pruned.names}
    for name in ("run-0", "run-2"):
        assert own[name] == pytest.approx([point.loss for point in kept if point.run == name], rel=1e-5)
    assert len(own["run-1"]) == 2


def test_evaluations_count_marks() -> None:
    training = tiny.run(tokens=800, evaluate_from=50, evaluate_ratio=2.0).training
    assert evaluations([tiny.run(tokens=800, evaluate_from=50)]) == 5, "50, 100, 200, 400 and the end"
    assert evaluations([tiny.run(tokens=801, evaluate_from=50), tiny.run(tokens=100, evaluate_from=50)]) == 6
    assert evaluations([tiny.run(tokens=40, evaluate_from=50)]) == 1
    assert evaluations([tiny.run(steps=3)]) is None
    assert [evaluation(training, tokens, previous) for tokens, previous in [(50, 0), (103, 1), (430, 2), (800, 4)]] == [
        1,
        2,
        4,
        5,
    ]
    assert evaluation(training, 520, 4) == 5, "the end of a budget between two marks"


def told(search: SearchConfig, count: int) -> list[Trial]:
    """Trials of a parabola in log10 of the rate, least at 1e-2; rank 2 adds a little."""
    rows: list[Trial] = []
    while len(rows) < count:
        for values in suggest(search, rows, 2):
            loss = (np.log10(values[RATE]) + 2) ** 2 + 0.1 * (values[RANK] == 2)
            rows.append(Trial("s", len(rows), 0, str(len(rows)), json.dumps(values), DONE, float(loss)))
    return rows


def test_tpe_closes_in_and_chance_does_not() -> None:
    space = {**SPACE, RATE: {"low": 1e-6, "high": 1e2, "log": True}}
    distances = {}
    for sampler in ("tpe", "random"):
        search = parse(SearchConfig, {"space": space, "sampler": sampler})
        rows = told(search, 40)
        assert rows == told(search, 40), "the same seed suggests the same"
        distances[sampler] = np.median([row.value for row in rows[20:]])
    assert distances["tpe"] < 0.5 * distances["random"]
    other = parse(SearchConfig, {"space": space, "seed": 1})
    assert suggest(other, [], 2) != suggest(parse(SearchConfig, {"space": space}), [], 2)


def test_choices_keep_their_types() -> None:
    space = {"a": [True, 1, None, [1, 2]], "b": {"low": 1, "high": 64, "log": True}}
    search = parse(SearchConfig, {"space": space, "sampler": "random"})
    drawn = suggest(search, [], 40)
    assert {json.dumps(values["a"]) for values in drawn} == {"true", "1", "null", "[1, 2]"}
    assert all(isinstance(values["b"], int) and 1 <= values["b"] <= 64 for values in drawn)
    assert np.median([values["b"] for values in drawn]) < 20, "evenly in the logarithm: half lie below 8"


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
        run_study(a_study(base), tmp_path / "out", quiet=True)


def test_the_verb_tells_of_the_search(base: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(json.dumps(a_study(base, trials=4, metric="perplexity").model_dump()))
    answer = CliRunner().invoke(app, ["study", str(file), "--out", str(tmp_path / "out"), "--json"])
    assert answer.exit_code == 0, answer.stderr
    told_of = json.loads(answer.stdout)["search"]
    assert set(told_of) == {"metric", "best", "value", "states", "runs", "final"} | {
        f"{saved}{unit}" for saved in ("", "saved_") for unit in ("flops", "tokens")
    }
    assert set(told_of["best"]) == set(SPACE)
    assert told_of["value"] == pytest.approx(np.exp(told_of["final"]["loss"])), "the final training is the best trial's own"


def test_the_report_draws_the_best_so_far(tmp_path: Path) -> None:
    study = a_study({}, metric="f1")
    describe(study, tmp_path)
    assert search_of(tmp_path) is None, "nothing was tried yet"
    store = Store(tmp_path)
    assert search_of(tmp_path) == Search("f1", True, [])
    ends = [(DONE, 0.4), (PRUNED, 0.3), (DIVERGED, None), (DONE, 0.6), (DONE, 0.5)]
    rows = [Trial("s", n, 0, f"r{n}", json.dumps({RATE: 1e-2}), state, value) for n, (state, value) in enumerate(ends)]
    store.keep_trials([*rows, replace(rows[-1], number=5)])
    store.add([Run(row.run, "search", "m", "t", "lora", 4, 1e-2, 0, "{}") for row in rows], {})
    store.write([point(row.run, flops=10.0) for row in rows])
    found = search_of(tmp_path)
    assert found is not None
    assert [trial.flops for trial in found.trials] == [10, 20, 40, 50, 50], "the one that diverged and its cost count too"
    plot = figure(cast(Any, SimpleNamespace(search=found)))
    assert plot is not None
    pruned, done, best = plot["data"]
    assert (pruned["x"], done["y"]) == ([20], [0.4, 0.6, 0.5, 0.5])
    assert (best["x"], best["y"]) == ([10, 40, 50, 50], [0.4, 0.6, 0.6, 0.6])
    assert "1 of them given up early" in caption(cast(Any, SimpleNamespace(search=found)))


def point(run: str, flops: float) -> Point:
    zeros = {field.name: 0 for field in fields(Point) if field.default is MISSING and field.name != "run"}
    return Point(run=run, **{**zeros, "flops": flops, "tokens": 1})  # type: ignore[arg-type]


@pytest.mark.slow
def test_two_workers_agree_with_themselves(base: dict[str, Any], tmp_path: Path) -> None:
    study = a_study(base, stack=2)
    for folder in ("once", "twice"):
        run_study(study, tmp_path / folder, workers=2, quiet=True)
    assert [row["round"] for row in trials(study, tmp_path / "once")] == [0] * 4 + [1] * 4
    assert trials(study, tmp_path / "once") == trials(study, tmp_path / "twice")
