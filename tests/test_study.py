"""Studies: tuned, trained in stacks, grown and verified; what is done is never done again."""

from __future__ import annotations

import importlib.util
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import studies
import tiny
import torch
from studies import RANK, RATE, points

from isolora.adapters import load
from isolora.config import RunConfig, StudyConfig, parse
from isolora.errors import ConfigError, DataError, MissingExtra
from isolora.plan import Recommendation
from isolora.runs.workspace import Workspace
from isolora.store import DIVERGED, DONE, Point, Store
from isolora.study.running import STUDY_FILE, final_losses, run_study
from isolora.study.verify import recommended_run, verify
from isolora.training.recorder import run_row
from isolora.training.stack import Stack

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return studies.base(tmp_path_factory.mktemp("files"), tokens=300, batch_tokens=60, evaluate_from=100)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The names of the members of every stack that took a step, once for each step."""
    taken: list[tuple[str, ...]] = []
    step = Stack.step

    def counted(stack: Stack) -> None:
        taken.append(tuple(stack.names))
        step(stack)

    monkeypatch.setattr(Stack, "step", counted)
    return taken


def a_study(base: dict[str, Any], **fields: Any) -> StudyConfig:
    given = {"base": base, "grid": {RANK: [2, 4], RATE: [1e-3, 1e-2, 1e-1]}, "tune": {"over": RATE, "tokens": 120}, **fields}
    return parse(StudyConfig, given)


def counts(store: Store) -> dict[str, int]:
    stages = [run["stage"] for run in store.runs()]
    return {stage: stages.count(stage) for stage in stages}


def test_tune_then_grid_then_nothing(base: dict[str, Any], tmp_path: Path, steps: list[Any], capsys: Any) -> None:
    study = a_study(base)
    store = run_study(study, tmp_path, quiet=True)
    assert counts(store) == {"tune": 6, "grid": 2}
    assert set(store.states().values()) == {DONE}
    trials = [point for point in store.points() if point["stage"] == "tune"]
    assert len(trials) == 6, "a trial is measured at its end alone"
    for point in store.points():
        if point["stage"] == "grid":
            best = min((trial["loss"], trial["learning_rate"]) for trial in trials if trial["rank"] == point["rank"])
            assert point["learning_rate"] == best[1]
    kept = json.loads((tmp_path / STUDY_FILE).read_text())
    assert parse(StudyConfig, kept["study"]) == study
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith(RATE)] == kept["remarks"]
    before, count = points(store), len(steps)
    assert len(set(steps)) == 2, "one stack of trials, one of runs"
    assert points(run_study(study, tmp_path, quiet=True)) == before
    assert len(steps) == count, "a second call trains nothing"


def test_a_grown_grid_trains_only_what_is_missing(base: dict[str, Any], tmp_path: Path, steps: list[Any]) -> None:
    grid = {RANK: [2, 4], RATE: [1e-2]}
    small = run_study(a_study(base, grid=grid, tune=None), tmp_path, quiet=True)
    before, changed = points(small), {run["run"]: run["changed"] for run in small.runs()}
    steps.clear()
    grown = run_study(a_study(base, grid={**grid, RANK: [2, 4, 8]}, tune=None), tmp_path, quiet=True)
    assert counts(grown) == {"grid": 3}
    assert {name for names in steps for name in names} == grown.states().keys() - changed.keys()
    assert [row for row in points(grown) if row["run"] in changed] == before
    assert {run["run"]: run["changed"] for run in grown.runs() if run["run"] in changed} == changed


def test_trials_generate_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are compared by their losses; what a task generates for at the end of a budget took more time than their training."""
    from isolora.tasks.prompted import Prompted

    made, generated = [], Prompted.generated
    monkeypatch.setattr(Prompted, "generated", lambda *given: made.append(1) or generated(*given))
    rows = [{"prompt": f"w{k % 7}", "completion": f"w{k % 5}"} for k in range(40)]
    run = tiny.from_rows(tmp_path, "llama", {"name": "instruction", "max_new_tokens": 2}, rows, tokens=240)
    study = a_study(run.model_dump(exclude_unset=True))
    store = run_study(study, tmp_path / "out", quiet=True)
    assert counts(store) == {"tune": 6, "grid": 2}
    scored = [point["stage"] for point in store.points() if "exact_match" in json.loads(point["metrics"])]
    assert (scored, len(made)) == (["grid", "grid"], 2)


def test_seeds_are_repeats_of_the_tuned_runs(base: dict[str, Any], tmp_path: Path) -> None:
    store = run_study(a_study(base, grid={RATE: [1e-2, 2e-2], "seed": [3, 4]}), tmp_path, quiet=True)
    assert [(run["stage"], run["seed"]) for run in store.runs()] == [("tune", 3), ("tune", 3), ("grid", 3), ("grid", 4)]


def test_a_diverged_trial_is_out_of_the_race(base: dict[str, Any], tmp_path: Path) -> None:
    store = run_study(a_study(base, grid={RATE: [1e-2, 1e30]}), tmp_path, quiet=True)
    assert [(run["stage"], run["state"], run["learning_rate"]) for run in store.runs()] == [
        ("tune", DONE, 1e-2),
        ("tune", DIVERGED, 1e30),
        ("grid", DONE, 1e-2),
    ]


def test_final_losses_are_of_runs_that_ended_well(base: dict[str, Any], tmp_path: Path) -> None:
    runs = [parse(RunConfig, {**base, "seed": seed}) for seed in range(3)]
    store = Store(tmp_path)
    names = [tiny.identity(run) for run in runs]
    store.add([run_row(run, name, "grid") for run, name in zip(runs, names, strict=True)], {})
    for tokens, loss in ((100, 3.0), (200, 2.0)):
        store.write([point_of(name, tokens, loss + k) for k, name in enumerate(names)])
    store.set_state(names[:1], DONE)
    store.set_state(names[1:2], DIVERGED)
    assert final_losses(store, runs, Workspace()) == {runs[0]: 2.0}


def point_of(name: str, tokens: int, loss: float) -> Point:
    return Point(name, 1, tokens, 0, tokens, 1, 1.0, 1, 1, 1, 1.0, 1.0, loss, loss, 1)


def test_two_workers_measure_what_one_does(base: dict[str, Any], tmp_path: Path) -> None:
    study = a_study(base, grid={RANK: [2, 4], RATE: [1e-2]}, tune=None, stack=1)
    alone = points(run_study(study, tmp_path / "alone", quiet=True))
    together = points(run_study(study, tmp_path / "together", workers=2, quiet=True))
    assert len(alone) == len(together) >= 4
    for one, other in zip(alone, together, strict=True):
        measured = {"loss", "train_loss"}
        assert {k: v for k, v in one.items() if k not in measured} == {k: v for k, v in other.items() if k not in measured}
        assert [other[key] for key in measured] == pytest.approx([one[key] for key in measured], rel=1e-6)


def test_a_wrong_study_leaves_nothing_behind(base: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown executor 'locl'; did you mean 'local'\? \(valid: local, ray\)"):
        run_study(a_study(base), tmp_path / "out", executor="locl")
    with pytest.raises(ConfigError, match=r"method\.rank"):
        run_study(a_study(base, grid={RANK: [0], RATE: [1e-2]}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_lost_texts_are_one_line(base: dict[str, Any], tmp_path: Path) -> None:
    study = a_study({**base, "data": {"source": str(tmp_path / "lost.txt")}}, tune=None)
    with pytest.raises(DataError, match="no such file") as caught:
        run_study(study, tmp_path / "out", quiet=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [ConfigError("field: wrong"), DataError("file: lost"), MissingExtra("ray", "ray")], ids=repr)
def test_a_workers_error_arrives_as_it_was(error: Exception) -> None:
    """Executors hand errors over by pickle."""
    arrived = pickle.loads(pickle.dumps(error))
    assert (type(arrived), str(arrived)) == (type(error), str(error))


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_the_pip_command_is_named(base: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(MissingExtra, match=r"^ray is not installed; get it with: pip install 'isolora\[ray\]'$"):
        run_study(a_study(base), tmp_path, executor="ray", quiet=True)


def a_recommendation(base: dict[str, Any], **changes: Any) -> Recommendation:
    fields: dict[str, Any] = {
        "model": base["model"],
        "method": {"name": "lora", "rank": 4},
        "learning_rate": 2e-2,
        "tokens": 700,
        "examples": 20,
        "epochs": 4.0,
        "flops": 1e7,
        "seconds": None,
        "predicted_loss": 4.0,
        "interval": (3.0, 5.0),
        "nearest_evidence": {},
        "warnings": (),
        "alternatives": (),
    }
    return Recommendation(**{**fields, **changes})


def test_the_recommendation_is_trained_and_compared(base: dict[str, Any], tmp_path: Path) -> None:
    store = run_study(a_study(base, grid={RANK: [2], RATE: [1e-2]}, tune=None), tmp_path, quiet=True)
    largest = max(point["flops"] for point in store.points())
    proof = verify(tmp_path, a_recommendation(base), largest, seed=5, quiet=True)
    (run,) = [run for run in store.runs() if run["stage"] == "verify"]
    assert (run["run"], run["rank"], run["learning_rate"], run["seed"], run["state"]) == (proof.run, 4, 2e-2, 5, DONE)
    last = store.points(proof.run)[-1]
    assert last["tokens"] >= 700 > last["tokens"] - 60
    assert (proof.measured, proof.flops) == (last["loss"], last["flops"])
    assert proof.flops_over_largest_fitted == last["flops"] / largest > 2
    assert proof.relative_error == abs(4.0 - last["loss"]) / last["loss"]
    assert proof.inside == (3.0 <= last["loss"] <= 5.0)
    assert proof.to_json()["inside_interval"] == proof.inside
    adapter = load(tmp_path)
    assert adapter.folder == proof.adapter == tmp_path / "recommended"
    assert adapter.record["loss"] == proof.measured
    assert verify(tmp_path, a_recommendation(base), largest, seed=5, quiet=True) == proof, "and not trained again"


@pytest.mark.parametrize(
    ("given", "wanted", "epochs", "drawn"),
    [
        (20, None, 1.0, 20),  # a table that does not count examples
        (20, 35, 1.0, 35),  # fresh data were foreseen
        (20, 10, 1.0, 20),  # one pass over any ten of the study's
        (20, 10, 3.0, 10),  # three passes over the same ten
        (20, 1000, 1.0, 48),  # as far as the 60 texts go, less those held out
        (None, 35, 1.0, None),
        (None, 10, 3.0, 10),
    ],
)
def test_examples_are_those_recommended(
    given: int | None, wanted: int | None, epochs: float, drawn: int | None, base: dict[str, Any]
) -> None:
    study = {**base, "data": {**base["data"], "train_examples": given}}
    run = recommended_run(study, a_recommendation(base, examples=wanted, epochs=epochs), seed=0)
    assert run.data.train_examples == drawn
    assert run.data.eval_examples == 5


def test_a_recommendation_that_diverges_is_said(base: dict[str, Any], tmp_path: Path) -> None:
    run_study(a_study(base, grid={RANK: [2], RATE: [1e-2]}, tune=None), tmp_path, quiet=True)
    with pytest.raises(ConfigError, match=r"verification: run \w+ ended diverged \(the loss was not finite at step \d+\)"):
        verify(tmp_path, a_recommendation(base, learning_rate=1e30), 1.0, quiet=True)
