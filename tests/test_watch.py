"""Watching a study: what the terminal shows until nobody trains, and the page of this machine."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import MISSING, fields, replace
from io import StringIO
from pathlib import Path

import chromium
import pytest
from rich.console import Console

from isolora.errors import ConfigError
from isolora.store import Point, Run, Store
from isolora.study.status import Status, status
from isolora.training.lease import Owner
from isolora.watch import dashboard, terminal
from isolora.watch.terminal import grouped, newest_runs, view

OWNER = Owner("here", 7, "2026-11-30 00:00:00", 1)


def point(run: str, tokens: int, loss: float) -> Point:
    numbers = {field.name: 1 for field in fields(Point) if field.default is MISSING}
    return Point(**{**numbers, "run": run, "tokens": tokens, "loss": loss, "flops": 9.0 * tokens})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "small")
    states = {"done": "DONE", "lost": "FAILED", "now": "RUNNING", "next": "PENDING", "bad": "DIVERGED", "cut": "INTERRUPTED"}
    for rank, (name, state) in enumerate(states.items(), 1):
        store.add([Run(name, "grid", "nano-55k", "causal-lm", "lora", rank, 5e-3, 0, "{}")], {})
        store.set_state([name], state)
    store.write([point("done", 4096, 3.5), point("done", 8192, 3.25), point("now", 4096, 3.75)])
    return store


def running(store: Store) -> Status:
    """As if somebody trained there: without an owner what runs counts as interrupted."""
    found = status(store.folder)
    lines = [replace(line, state="running") if line.run == "now" else line for line in found.each]
    return replace(found, owner=OWNER, seconds_left=90.0, states={**found.states, "interrupted": 1, "running": 1}, each=lines)


def shown(found: Status, width: int = 100) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(view(found))
    return console.file.getvalue()


def test_runs_are_grouped_by_what_a_person_waits_for(store: Store) -> None:
    assert grouped(running(store)) == {"done": 2, "running": 1, "waiting": 2, "failed": 1}


def test_the_terminal_shows_counts_time_left_and_the_newest_losses(store: Store) -> None:
    words = shown(running(store))
    assert "2 of 6" in words
    assert "2 done  1 running  2 waiting  1 failed  about 90 s left" in words
    rows = [line.split() for line in words.splitlines() if line.startswith("nano-55k")]
    assert rows[0] == ["nano-55k", "lora,", "rank", "3", "3.7500", "4,096", "running", "0.005", "grid"], "what runs comes first"
    assert ["nano-55k", "lora,", "rank", "1", "3.2500", "8,192", "complete", "0.005", "grid"] in rows
    assert not [row for row in rows if "queued" in row]
    assert "nobody trains here now" in shown(status(store.folder))


def test_a_narrow_terminal_keeps_losses_tokens_and_states(store: Store) -> None:
    line = next(line for line in shown(running(store), 60).splitlines() if "running" in line and "rank" in line)
    assert "3.7500" in line
    assert "4,096" in line


def test_those_that_changed_last_are_shown(store: Store) -> None:
    order = [line.run for line in newest_runs(running(store))]
    assert order == ["now", "cut", "bad", "lost", "done"]


def test_watching_ends_when_nobody_trains(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [running(store), running(store), status(store.folder)]
    monkeypatch.setattr(terminal, "status", lambda folder: looks.pop(0))
    slept: list[float] = []
    found = terminal.watch(store.folder, 3.0, Console(file=StringIO()), slept.append)
    assert (slept, looks, found.owner) == ([3.0, 3.0], [], None)


@pytest.fixture
def address(store: Store) -> Iterator[str]:
    server = dashboard.dashboard_server(store.folder, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def fetched(address: str, **headers: str) -> str:
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=20) as answer:
        return str(answer.read().decode())


def test_the_page_says_how_the_study_stands(address: str, store: Store) -> None:
    state = json.loads(fetched(f"{address}/state"))
    assert state["counts"] == {"done": 2, "running": 0, "waiting": 3, "failed": 1}
    assert (state["runs"], state["points"], state["owner"]) == (6, 3, "")
    assert {line["run"]: line["loss"] for line in state["newest"]}["done"] == 3.25
    assert 'fetch("/state")' in fetched(address)


def test_the_report_is_made_anew_when_there_are_new_points(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    board = dashboard.Board(store.folder)
    made: list[int] = []
    monkeypatch.setattr(board, "_made", lambda: made.append(board._count()) or f"page {len(made)}")
    assert (board.report(), board.report(), made) == ("page 1", "page 1", [3])
    store.write([point("now", 8192, 3.5)])
    assert (board.report(), made) == ("page 2", [3, 4])


def test_a_study_without_points_or_a_law_has_a_page(store: Store, tmp_path: Path) -> None:
    Store(tmp_path / "empty")
    page = dashboard.Board(tmp_path / "empty").report()
    assert "No point has been measured yet" in page
    assert "content='light dark'" in page, "white in a dark page otherwise"
    assert "<title>" in dashboard.Board(store.folder).report()


@pytest.mark.parametrize(("path", "host", "code"), [("/state", "evil.example:80", 403), ("/../etc/passwd", "localhost:80", 404)])
def test_only_this_machine_and_only_these_pages(address: str, path: str, host: str, code: int) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        fetched(f"{address}{path}", Host=host)
    assert refused.value.code == code
    refused.value.close()


def test_mistakes_are_one_line(store: Store, address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no study and no run"):
        dashboard.dashboard_server(tmp_path / "absent")
    with pytest.raises(ConfigError, match=r"--port: .* cannot be had .*; name another, or 0"):
        dashboard.dashboard_server(store.folder, int(address.rpartition(":")[2]))


@pytest.mark.skipif(chromium.executable() is None, reason="no Chromium here")
def test_a_browser_shows_the_study_and_follows_it(address: str, store: Store) -> None:
    store.write([point("next", tokens, 3.9 - tokens / 1e5) for tokens in (2048, 4096, 8192, 16384)])
    with chromium.browser() as tab:
        tab.visit(f"{address}/", 390)
        tab.wait("document.getElementById('newest').rows.length === 5")
        words = tab.value("document.getElementById('words').textContent")
        assert words == "2 done, 0 running, 3 waiting, 1 failed of 6 runs; nobody trains here now"
        tab.wait("document.getElementById('report').contentDocument?.documentElement?.dataset.painted !== undefined")
        store.set_state(["next"], "DONE")
        tab.wait("document.getElementById('words').textContent.startsWith('3 done')")
        assert tab.value("document.documentElement.scrollWidth") <= 390, "nothing runs out of a phone's width"
        assert tab.value("document.querySelector('details').scrollWidth") <= 390, "nor does the table of losses"
        assert {request.removeprefix(address) for request in tab.requests} == {"/", "/state", "/report"}
        assert tab.problems == []
