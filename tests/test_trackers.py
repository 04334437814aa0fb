"""Trackers: they are told what the store is told, run by run, and no failure of theirs ends a run."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import studies
import tiny
import torch
import yaml
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from isolora import registry
from isolora.config import RunConfig, StudyConfig, parse
from isolora.config.run_config import ForgettingConfig
from isolora.errors import ConfigError, MissingExtra
from isolora.store import DONE, Store
from isolora.study.running import run_study
from isolora.training import train, train_stack
from isolora.training.stack import Stack

torch.set_num_threads(1)
PEAK = 1e-2
Told = dict[int, dict[str, float]]
"""Tokens -> series -> value."""


def a_run(folder: Path, *kinds: str, **changes: Any) -> RunConfig:
    return tiny.from_files(folder, trackers=kinds, steps=12, warmup_steps=2, schedule="cosine", **changes)


def stored(store: Store, run: str) -> Told:
    """What the trackers of a run on `a_run`'s schedule should have been told."""
    told = {}
    for point in store.points(run):
        peak = json.loads(point["config"])["training"]["learning_rate"]
        told[point["tokens"]] = {
            **{name: point[name] for name in ("loss", "train_loss", "flops", "seconds", "passes")},
            **({"forgetting": point["forgetting"]} if point["forgetting"] is not None else {}),
            **{f"metrics/{name}": value for name, value in json.loads(point["metrics"]).items()},
            "steps": point["step"],
            "learning_rate": peak * 0.5 * (1 + math.cos(math.pi * point["step"] / 12)),
        }
    assert len(told) > 2
    return told


def in_events(folder: Path) -> Told:
    events = EventAccumulator(str(folder)).Reload()
    told: Told = {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            told.setdefault(event.step, {})[tag] = event.value
    return told


def close(told: Told) -> Any:
    """Events hold single precision."""
    return {tokens: pytest.approx(values, rel=1e-6, abs=1e-9) for tokens, values in told.items()}


def test_events_are_the_points_of_each_member(tmp_path: Path) -> None:
    one = a_run(tmp_path, "tensorboard")
    one = one.model_copy(update={"forgetting": ForgettingConfig(sources=(one.data.source,), examples=3)})
    other = one.model_copy(update={"training": one.training.model_copy(update={"learning_rate": 3 * PEAK})})
    store = Store(tmp_path / "out")
    names = train_stack([one, other], store, "grid", quiet=True)
    for name, config in zip(names, (one, other), strict=True):
        folder = tmp_path / "out" / "trackers" / name
        assert "forgetting" in stored(store, name)[store.points(name)[0]["tokens"]]
        assert in_events(folder) == close(stored(store, name))
        [kept] = folder.glob("*/hparams.yml")
        told = yaml.safe_load(kept.read_text())
        assert told["training.learning_rate"] == config.training.learning_rate
        assert (told["method.rank"], told["training.trackers"], told["training.tokens"]) == (4, '["tensorboard"]', None)


def test_a_resumed_run_goes_on_in_its_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, out, step = a_run(tmp_path, "tensorboard"), tmp_path / "out", Stack.step

    def cut_off(stack: Stack) -> None:
        if stack.steps == 8:
            raise KeyboardInterrupt
        step(stack)

    with monkeypatch.context() as patched:
        patched.setattr(Stack, "step", cut_off)
        with pytest.raises(KeyboardInterrupt):
            train(config, out, quiet=True)
    [folder] = (out / "trackers").iterdir()
    assert max(in_events(folder)) < max(stored_at_end := stored(Store(out), train(config, out, quiet=True)["run"]))
    assert in_events(folder) == close(stored_at_end)


class StandIn(GeneralTracker):
    """A tracker service that keeps what it is told, and fails where it is told to."""

    name = "wandb"
    requires_logging_directory = False
    main_process_only = False
    tracker = None
    started: list[StandIn]
    fails: str

    def __init__(self, project: str, **given: Any) -> None:
        super().__init__()
        self.project, self.given, self.told, self.finished = project, given, {}, False

    def fail(self, at: str) -> None:
        if at == self.fails:
            raise ConnectionError(f"no route\nto {at}")

    def start(self) -> None:
        print("a greeting")
        self.fail("start")
        self.started.append(self)

    def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
        self.fail("log")
        assert step is not None
        self.told[step] = values

    def finish(self) -> None:
        self.fail("finish")
        self.finished = True


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    monkeypatch.setattr(type(registry.load_plug_in("tracker", "wandb")), "requires", ())
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", StandIn)
    monkeypatch.setattr(StandIn, "started", [], raising=False)
    monkeypatch.setattr(StandIn, "fails", "", raising=False)
    return StandIn


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("trainer", ["native", "hf", "sft"])
def test_passed_on_whoever_takes_the_steps(trainer: str, service: type[StandIn], tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    ended = train(a_run(tmp_path, "wandb", trainer=trainer), out, quiet=True)
    [told] = service.started
    assert (told.project, told.given["name"], told.given["id"]) == ("out", ended["run"], ended["run"])
    assert told.given["config"]["training.trainer"] == trainer
    assert told.told == {tokens: pytest.approx(values) for tokens, values in stored(Store(out), ended["run"]).items()}
    assert told.finished
    assert "a greeting" not in capsys.readouterr().out, "standard output is the command line's"


def test_runs_of_a_study_have_a_tracker_each(service: type[StandIn], tmp_path: Path) -> None:
    base = studies.base(tmp_path, tokens=300, batch_tokens=60, evaluate_from=100)
    base["training"]["trackers"] = ["wandb"]
    store = run_study(parse(StudyConfig, {"base": base, "grid": {"method.rank": [2, 4]}}), tmp_path / "out", quiet=True)
    assert {told.given["name"]: told.given["config"]["method.rank"] for told in service.started} == {
        run["run"]: run["rank"] for run in store.runs()
    }
    for told in service.started:
        assert {tokens: values["loss"] for tokens, values in told.told.items()} == {
            point["tokens"]: point["loss"] for point in store.points(told.given["name"])
        }


@pytest.mark.parametrize("at", ["start", "log", "finish"])
def test_a_tracker_that_fails_costs_one_line(
    at: str, service: type[StandIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(service, "fails", at)
    configs = [a_run(tmp_path, "wandb", learning_rate=rate) for rate in (PEAK, 3 * PEAK)]
    store = Store(tmp_path / "out")
    train_stack(configs, store, "grid", quiet=True)
    assert set(store.states().values()) == {DONE}
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("isolora:")]
    assert said == [f"isolora: tracker wandb is given up, training goes on: no route to {at}"]


@pytest.mark.parametrize("package", ["trackio", "wandb"])
def test_a_missing_package_is_told_before_training(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(MissingExtra, match=rf"^{package} is not installed; .*isolora\[track\]"):
        train(a_run(tmp_path, "tensorboard", package), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out" / "trackers").exists()


def test_trackers_are_no_part_of_a_run() -> None:
    assert tiny.run(trackers=["tensorboard", "wandb"]).identity() == tiny.run().identity()
    with pytest.raises(
        ConfigError, match=r"^training\.trackers\.0: unknown tracker 'mlflow'.*\(valid: tensorboard, trackio, wandb\)"
    ):
        parse(RunConfig, {"training": {"steps": 1, "trackers": ["mlflow"]}})
