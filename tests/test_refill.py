"""A place that is free in a running stack goes to the next run; nobody's losses change for it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from studies import a_search, points, search_base, trials

from isolora.config import RunConfig
from isolora.runs.observer import Observer
from isolora.runs.workspace import Workspace
from isolora.store import DIVERGED, DONE, PRUNED, RUNNING, Point, Store
from isolora.study.running import run_study
from isolora.training.recorder import environment, run_row
from isolora.training.refill import Queue
from isolora.training.stack import Stack
from isolora.training.training_run import train_stack

torch.set_num_threads(1)


class Waiting(Queue):
    """Runs in a row, two places; those named end at their second point."""

    def __init__(self, store: Store, runs: list[RunConfig], hopeless: Collection[str] = ()) -> None:
        super().__init__("waiting")
        self.store, self.hopeless, self.ended = store, hopeless, dict[str, str]()
        self.runs = {Workspace().identity(run): run for run in runs}
        store.add([run_row(run, name, "search") for name, run in self.runs.items()], environment())

    def __call__(self, point: Point) -> bool:
        return point.run in self.hopeless and len(self.store.points(point.run)) == 2

    def next_runs(self, ended: Mapping[str, str], running: Collection[str]) -> dict[str, RunConfig]:
        self.ended |= ended
        waiting = [name for name in self.runs if name not in running and name not in self.store.ended()]
        joining = {name: self.runs[name] for name in waiting[: 2 - len(running)]}
        self.store.set_state(joining, RUNNING)
        return joining


def some_runs(folder: Path, **method: Any) -> list[RunConfig]:
    """Five runs of one base and data, of several ranks, seeds and rates."""
    common = {"tokens": 700, "batch_tokens": 50, "evaluate_from": 100}
    first = tiny.from_files(folder, method=method, **common)
    others = [
        tiny.run(seed=seed, method={"rank": 2 + 2 * (seed % 3), **method}, learning_rate=1e-2 / seed, **common)
        for seed in range(1, 5)
    ]
    return [first, *(run.model_copy(update={"model": first.model, "data": first.data}) for run in others)]


def trained(store: Store, runs: list[RunConfig], hopeless: Collection[str] = ()) -> Waiting:
    queue = Waiting(store, runs, hopeless)
    train_stack([*queue.next_runs({}, ()).values()], store, "search", True, queue)
    return queue


def losses(store: Store, run: str) -> list[float]:
    return [point["loss"] for point in store.points(run)]


@pytest.mark.parametrize("method", [{}, {"dropout": 0.3}, {"name": "bottleneck", "size": 4, "rank": None, "dropout": 0.2}])
def test_every_run_is_as_if_it_were_alone(tmp_path: Path, method: dict[str, Any]) -> None:
    """Two places, five runs, one of which is pruned: a member that goes on keeps its weights, moments, data and dropout."""
    method = {key: value for key, value in method.items() if value is not None}
    if method.get("name") == "bottleneck":
        common = {"tokens": 700, "batch_tokens": 50, "evaluate_from": 100}
        first = tiny.from_files(tmp_path, method=method, **common)
        runs = [first.model_copy(update={"seed": seed}) for seed in range(5)]
    else:
        runs = some_runs(tmp_path, **method)
    store = Store(tmp_path / "joined")
    queue = trained(store, runs, [Workspace().identity(runs[1])])
    states = store.states()
    assert [states[name] for name in queue.runs] == [DONE, PRUNED, DONE, DONE, DONE]
    assert queue.ended == states
    for name, run in queue.runs.items():
        alone = Store(tmp_path / f"alone-{name}")
        train_stack([run], alone, "search", quiet=True)
        kept = losses(store, name)
        assert len(kept) == (2 if states[name] == PRUNED else len(losses(alone, name)))
        np.testing.assert_allclose(kept, losses(alone, name)[: len(kept)], rtol=1e-4)
        assert [point["step"] for point in store.points(name)] == [point["step"] for point in alone.points(name)][: len(kept)]
    assert not (store.folder / "checkpoints" / "waiting").exists()


def test_places_are_never_empty_while_somebody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, step = list[int](), Stack.step

    def counted(stack: Stack) -> None:
        counts.append(len(stack.running))
        step(stack)

    monkeypatch.setattr(Stack, "step", counted)
    runs = some_runs(tmp_path)
    store = Store(tmp_path / "out")
    trained(store, runs, [Workspace().identity(runs[0])])
    alone = counts.index(1) if 1 in counts else len(counts)
    assert set(counts[:alone]) == {2}
    assert set(counts[alone:]) <= {1}
    assert alone > len(counts) / 2


def test_one_that_diverges_makes_room_at_once(tmp_path: Path) -> None:
    first, *others = some_runs(tmp_path)
    broken = first.model_copy(update={"training": first.training.model_copy(update={"learning_rate": 1e30})})
    store = Store(tmp_path / "out")
    queue = trained(store, [broken, *others])
    assert list(queue.ended.values()) == [DIVERGED, DONE, DONE, DONE, DONE]


@pytest.mark.parametrize("patience", [4, 9, 17, 30])
def test_a_refilled_stack_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int) -> None:
    """With the members of its last checkpoint, whoever they were; all that is measured is the same to the last bit."""
    runs = some_runs(tmp_path, dropout=0.1)
    hopeless = [Workspace().identity(runs[1])]
    whole, cut = Store(tmp_path / "whole"), Store(tmp_path / "cut")
    trained(whole, runs, hopeless)
    step = Stack.step

    def dying(stack: Stack) -> None:
        if stack.steps == patience:
            raise KeyboardInterrupt
        step(stack)

    with monkeypatch.context() as patched:
        patched.setattr(Stack, "step", dying)
        with pytest.raises(KeyboardInterrupt):
            trained(cut, runs, hopeless)
    assert RUNNING not in cut.states().values()
    trained(cut, runs, hopeless)
    assert points(cut) == points(whole)
    assert cut.states() == whole.states()
    for name, state in whole.states().items():
        found = cut.folder / "adapters" / name / "adapter_model.safetensors"
        assert found.is_file() == (state == DONE)


def test_observers_and_trackers_hear_of_those_that_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = list[list[str]]()

    class Ear(Observer):
        def on_joined(self, stack: Stack) -> None:
            heard.append(list(stack.names))

    from isolora.training import tracking

    @contextmanager
    def listened(stack: Stack, out: Path) -> Iterator[Observer]:
        yield Ear()

    monkeypatch.setattr(tracking, "tracked", listened)
    runs = some_runs(tmp_path)
    store = Store(tmp_path / "out")
    names = list(trained(store, runs, [Workspace().identity(runs[1])]).runs)
    assert heard[0] == [names[0], names[2]]
    assert {name for each in heard for name in each} == set(names) - {names[1]}


def test_a_search_fills_its_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trial in the place of one that has ended knows all that had ended by then, and no trial waits for a round to end."""
    pytest.importorskip("optuna")
    counts, step = list[int](), Stack.step

    def counted(stack: Stack) -> None:
        counts.append(len(stack.running))
        step(stack)

    monkeypatch.setattr(Stack, "step", counted)
    study = a_search(search_base(tmp_path), trials=12)
    store = run_study(study, tmp_path / "out", quiet=True)
    rows = trials(study, store.folder)
    assert [row["number"] for row in rows] == list(range(12))
    assert {row["state"] for row in rows} == {DONE, PRUNED}
    assert len({row["round"] for row in rows}) > 4  # not four rounds of three
    steps_of_search = counts[: max(k for k, count in enumerate(counts) if count > 1) + 1]
    assert np.mean(np.array(steps_of_search) == 3) > 0.6
    for row in rows:
        assert list(json.loads(row["curve"]).values()) == losses(store, row["run"])
