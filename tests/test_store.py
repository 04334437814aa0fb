"""The store: what goes in comes out, once, also from several processes."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from multiprocessing import get_context
from pathlib import Path

import pytest

from isolora.store import DIVERGED, DONE, ENDED, PENDING, RUNNING, Point, Run, Store


def a_run(name: str = "r", **changes: object) -> Run:
    run = Run(run=name, stage="grid", model="m", task="causal-lm", method="lora", rank=4, learning_rate=0.01, seed=0, config="{}")
    return dataclasses.replace(run, **changes)


def a_point(name: str = "r", tokens: int = 100, loss: float = 2.5) -> Point:
    return Point(name, 1, tokens, 3, 90, 7, tokens / 90, 1000, 1100, 20, 1e9 + 0.5, 1.25, loss, 3.5, 123)


def write_many(folder: Path, first: int) -> None:
    store = Store(folder)
    for tokens in range(first, first + 50):
        store.write([a_point(tokens=tokens)])


def test_round_trip(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add([a_run(), a_run("q", rank=None)], {"device": "cpu"})
    store.write([a_point()])
    (row,) = store.points()
    assert {key: row[key] for key in dataclasses.asdict(a_point())} == dataclasses.asdict(a_point())
    assert {key: row[key] for key in dataclasses.asdict(a_run())} == dataclasses.asdict(a_run())
    first, second = store.runs()
    assert (first["run"], first["state"], json.loads(first["environment"])) == ("r", PENDING, {"device": "cpu"})
    assert second["rank"] is None


def test_points_come_in_order_of_runs_and_tokens(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add([a_run("z"), a_run("a")], {})
    store.write([a_point("a", 200), a_point("z", 300), a_point("a", 100), a_point("z", 50)])
    assert [(row["run"], row["tokens"]) for row in store.points()] == [("z", 50), ("z", 300), ("a", 100), ("a", 200)]
    assert [row["tokens"] for row in store.points("a")] == [100, 200]


def test_the_same_point_again_replaces_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add([a_run()], {})
    store.write([a_point(loss=3.0)])
    store.write([a_point(loss=2.0)])
    assert [row["loss"] for row in store.points()] == [2.0]


def test_a_known_run_keeps_its_state(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add([a_run()], {})
    store.set_state(["r"], DIVERGED, "the loss was not finite at step 3")
    Store(tmp_path).add([a_run(), a_run("q")], {})
    assert store.states() == {"r": DIVERGED, "q": PENDING}
    assert store.runs()[0]["reason"] == "the loss was not finite at step 3"


def test_states(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add([a_run(), a_run("q")], {})
    store.set_state(["r", "q"], RUNNING)
    store.set_state(["q"], DONE)
    assert store.states() == {"r": RUNNING, "q": DONE}
    assert [name for name, state in store.states().items() if state in ENDED] == ["q"]


def test_a_store_of_an_earlier_version_gets_the_new_columns(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add([a_run()], {})
    store.write([a_point()])
    with sqlite3.connect(store.path) as connection:
        connection.execute("ALTER TABLE points DROP COLUMN flops_by_group")
    connection.close()
    newer = Store(tmp_path)
    newer.write([dataclasses.replace(a_point(tokens=200), flops_by_group='{"head": {}}')])
    assert [row["flops_by_group"] for row in Store(tmp_path).points()] == ["{}", '{"head": {}}']


def test_a_failing_write_leaves_nothing_behind(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add([a_run()], {})
    with pytest.raises(sqlite3.Error):
        store.write([a_point(), dataclasses.replace(a_point(tokens=7), loss=object())])  # type: ignore[arg-type]
    assert store.points() == []


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add([a_run()], {})
    context = get_context("spawn")
    processes = [context.Process(target=write_many, args=(tmp_path, first)) for first in (0, 50)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert [row["tokens"] for row in store.points()] == list(range(100))
    with sqlite3.connect(store.path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
