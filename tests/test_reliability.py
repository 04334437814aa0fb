"""A short form of benchmarks/bench_reliability.py: stopped, failing, short of memory, in use by another, and taken up again."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import person
import pytest
import studies
import torch
from studies import RANK, RATE, points

from isolora import child_process
from isolora import store as stores
from isolora.config import RunConfig, StudyConfig, parse
from isolora.errors import ConfigError, RunFailed
from isolora.store import DIVERGED, DONE, FAILED, INTERRUPTED, OUT_OF_MEMORY, PENDING, RUNNING, Store
from isolora.study.executors.base import StudyFailed
from isolora.study.running import run_study
from isolora.study.status import status, stop
from isolora.training import checkpoint, train
from isolora.training import lease as leases
from isolora.training.folder import LOG, locked_store
from isolora.training.interruption import STOP_FILE, Interrupted, handled
from isolora.training.stack import Stack

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return studies.base(tmp_path_factory.mktemp("files"), tokens=300, batch_tokens=60, evaluate_from=100)


@pytest.fixture
def before_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Stack], None]], None]:
    """Calls something before every step of every stack."""

    def install(act: Callable[[Stack], None]) -> None:
        step = Stack.step

        def disturbed(stack: Stack) -> None:
            act(stack)
            step(stack)

        monkeypatch.setattr(Stack, "step", disturbed)

    return install


def a_study(base: dict[str, Any], **fields: Any) -> StudyConfig:
    return parse(StudyConfig, {"base": base, "grid": {RANK: [2, 4], RATE: [1e-3, 1e-2]}, "stack": 2, **fields})


def a_run(base: dict[str, Any]) -> RunConfig:
    return parse(RunConfig, base)


@pytest.mark.parametrize(("number", "status_of_exit"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_a_checkpoint(
    base: dict[str, Any], tmp_path: Path, before_step: Any, number: int, status_of_exit: int
) -> None:
    whole = train(a_run(base), tmp_path / "whole", quiet=True)
    with pytest.MonkeyPatch.context():
        sent: list[int] = []

        def send(stack: Stack) -> None:
            if stack.steps == 2 and not sent:
                sent.append(number)
                signal.raise_signal(number)

        before_step(send)
        with pytest.raises(Interrupted) as caught:
            train(a_run(base), tmp_path / "cut", quiet=True)
    assert caught.value.exit_status == status_of_exit
    assert set(Store(tmp_path / "cut").states().values()) == {INTERRUPTED}
    (kept,) = (tmp_path / "cut").glob("checkpoints/*/step-*")
    assert kept.name == "step-000000003", "the step under way is finished"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "handlers are as they were"
    assert train(a_run(base), tmp_path / "cut", quiet=True)["loss"] == whole["loss"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_library_that_knows_ctrl_c_alone_does_not_change_the_exit_status(number: signal.Signals) -> None:
    """Ray made a KeyboardInterrupt of its own of TERM, and a study ended with status 130."""

    def library() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(1)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None

    with pytest.raises(Interrupted) as stopped, handled():
        library()
    assert stopped.value.exit_status == 128 + number


def test_a_bare_keyboard_interrupt_stays_one() -> None:
    with pytest.raises(KeyboardInterrupt) as stopped, handled():
        raise KeyboardInterrupt
    assert not isinstance(stopped.value, Interrupted)


def test_a_stop_file_counts_as_term(base: dict[str, Any], tmp_path: Path, before_step: Any) -> None:
    def ask(stack: Stack) -> None:
        (tmp_path / STOP_FILE).touch()
        time.sleep(0.4)

    before_step(ask)
    with pytest.raises(Interrupted, match="SIGTERM"):
        train(a_run(base), tmp_path, quiet=True)


def test_what_fails_is_told_and_the_others_go_on(base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Stack.step

    def broken(stack: Stack) -> None:
        if stack.members[0].config.method.fields()["rank"] == 2:
            raise OSError("the cable\nis gone")
        step(stack)

    study = a_study(base, stack=1)
    with monkeypatch.context() as patched:
        patched.setattr(Stack, "step", broken)
        with pytest.raises(StudyFailed, match="2 stacks of 2 runs failed: OSError: the cable is gone"):
            run_study(study, tmp_path, quiet=True)
    store = Store(tmp_path)
    assert sorted(store.states().values()) == [DONE, DONE, FAILED, FAILED]
    assert {run["reason"] for run in store.runs() if run["state"] == FAILED} == {"OSError: the cable is gone"}
    assert "Traceback" in (tmp_path / LOG).read_text()
    assert set(run_study(study, tmp_path, quiet=True).states().values()) == {DONE}


def test_a_failed_trial_is_not_judged(base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, step = a_study(base, stack=1, tune={"over": RATE, "tokens": 120}), Stack.step

    def broken(stack: Stack) -> None:
        if stack.members[0].config.method.fields()["rank"] == 2:
            raise RuntimeError("lost")
        step(stack)

    with monkeypatch.context() as patched:
        patched.setattr(Stack, "step", broken)
        with pytest.raises(StudyFailed):
            run_study(study, tmp_path, quiet=True)
    assert [run["rank"] for run in Store(tmp_path).runs() if run["stage"] == "grid"] == [4]
    assert [run["rank"] for run in run_study(study, tmp_path, quiet=True).runs() if run["stage"] == "grid"] == [4, 2]


@pytest.mark.parametrize("limit", [1, 8], ids=["stack split", "micro-batches"])
def test_short_of_memory(base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """A pass of more rows than the limit fails, or of more than one run where it is 1; the batches stay the same."""
    backward = Stack._backward

    def limited(stack: Stack, drawn: Any, part: int, together: Any) -> Any:
        rows = sum(len(stack.members[k].micro_batches(drawn[k])[0]) for k in together)
        if rows > limit if limit > 1 else len(together) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes")
        return backward(stack, drawn, part, together)

    study = a_study(base, grid={RATE: [1e-3, 1e-2]})
    whole = points(run_study(study, tmp_path / "whole", quiet=True))
    with monkeypatch.context() as patched:
        patched.setattr(Stack, "_backward", limited)
        store = run_study(study, tmp_path / "limited", quiet=True)
    assert set(store.states().values()) == {DONE}
    noted = [json.loads(run["environment"])["out_of_memory"] for run in store.runs()]
    assert all(note["accumulation"] > 1 and note["stack"] == (2 if limit > 1 else 1) for note in noted)
    assert [row["loss"] for row in points(store)] == pytest.approx([row["loss"] for row in whole], rel=1e-4)
    assert [row["tokens"] for row in points(store)] == [row["tokens"] for row in whole]


def test_no_memory_at_all_is_a_state(base: dict[str, Any], tmp_path: Path, before_step: Any) -> None:
    def none(stack: Stack) -> None:
        raise MemoryError

    before_step(none)
    with pytest.raises(RunFailed, match="out of memory, alone and in micro-batches 64 times smaller"):
        train(a_run(base), tmp_path, quiet=True)
    assert set(Store(tmp_path).states().values()) == {OUT_OF_MEMORY}
    assert dict(status(tmp_path).states) == {"out-of-memory": 1}


def test_a_killed_worker_costs_one_retry(base: dict[str, Any], capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def kill() -> None:
        while not list(tmp_path.glob("out/checkpoints/*")):
            time.sleep(0.01)
        multiprocessing.active_children()[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    run_study(a_study(base | {"training": {**base["training"], "tokens": 3000}}), tmp_path / "out", workers=2, quiet=True)
    killer.join()
    assert "killed by SIGKILL" in capfd.readouterr().err
    assert set(Store(tmp_path / "out").states().values()) == {DONE}


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_child_ends_with_its_parent(method: str, tmp_path: Path) -> None:
    code = (
        "import multiprocessing as m, time\nfrom isolora import child_process as c\n"
        f"c.PRELOADED, c.start_method = 'json', lambda: m.get_context('{method}')\n"
        "if __name__ == '__main__':\n"
        " print(c.start_worker('time', 'sleep', 60).pid, flush=True); time.sleep(60)\n"
    )
    (tmp_path / "parent.py").write_text(code)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(1)
    parent.kill()
    parent.communicate()
    for _ in range(50):
        try:
            if Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                break
        except OSError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("an orphan")


@pytest.mark.parametrize("swept", [False, True])
def test_workers_begin_where_no_socket_can_be(swept: bool, tmp_path: Path) -> None:
    """A long TMPDIR, as clusters have them, ended in "OSError: AF_UNIX path too long"; so did one that was swept."""
    temporary = tmp_path / ("t" if swept else "t" * 100)
    temporary.mkdir()
    code = (
        "import shutil, sys\nfrom isolora import child_process as c\nc.PRELOADED = 'json'\n"
        "if __name__ == '__main__':\n"
        f" c.import_ahead(); {swept} and shutil.rmtree(sys.argv[1])\n"
        " started = c.start_worker('time', 'sleep', 0); started.join(60); print(started.exitcode)\n"
    )
    (tmp_path / "parent.py").write_text(code)
    words = [sys.executable, tmp_path / "parent.py", temporary]
    ended = subprocess.run(words, env={**os.environ, "TMPDIR": str(temporary)}, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "0\n"), ended.stderr


def test_a_worker_has_the_environment_of_now(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(child_process, "PRELOADED", "json")
    code = "import os; from pathlib import Path; Path(os.environ['ISOLORA_SEEN']).write_text(os.environ['ISOLORA_SEEN'])"
    for name in ("first", "second"):  # both from one server, which is older than the second name
        monkeypatch.setenv("ISOLORA_SEEN", str(tmp_path / name))
        process = child_process.start_worker("builtins", "exec", code)
        process.join(60)
        assert process.exitcode == 0
        assert (tmp_path / name).read_text() == str(tmp_path / name)


def test_a_second_process_is_refused_by_name(base: dict[str, Any], tmp_path: Path) -> None:
    with locked_store(tmp_path / "out"), pytest.raises(ConfigError, match=rf"in use by process {os.getpid()} on .*isolora stop"):
        train(a_run(base), tmp_path / "out", quiet=True)
    with pytest.raises(ConfigError, match="nothing to stop"):
        stop(tmp_path / "out")


def test_a_dead_owner_is_taken_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path)
    with sqlite3.connect(store.path) as connection:
        connection.execute("INSERT INTO runs (run, stage, state) VALUES ('r', 'grid', 'RUNNING')")
    connection.close()
    (tmp_path / leases.FILE).write_text(json.dumps({"host": os.uname().nodename, "pid": 1, "since": "long ago"}))
    assert dict(status(tmp_path).states) == {"interrupted": 1}, "nobody runs it"
    with locked_store(tmp_path) as taken:
        assert taken.states() == {"r": INTERRUPTED}
        taken.set_state(["r"], RUNNING)
        assert dict(status(tmp_path).states) == {"running": 1}
    assert "taken over from process 1" in capsys.readouterr().err
    assert leases.owner(tmp_path) is None


def test_a_living_owner_elsewhere_is_believed_by_its_heartbeat(tmp_path: Path) -> None:
    (tmp_path / leases.FILE).write_text(json.dumps({"host": "elsewhere", "pid": 1, "since": "now"}))
    with pytest.raises(ConfigError, match="process 1 on elsewhere"), locked_store(tmp_path):
        pass
    old = time.time() - 1000
    os.utime(tmp_path / leases.FILE, (old, old))
    with locked_store(tmp_path):
        pass


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 256, "/proc/none/here"])
def test_a_folder_that_cannot_be_is_one_line(
    name: str, base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    words = [f"model={base['model']}", f"data={json.dumps(base['data'])}", f"training={json.dumps(base['training'])}"]
    exit_status, _, err = person.run(monkeypatch, capsys, "train", *words, "--out", tmp_path / name)
    assert (exit_status, err.count("\n")) == (2, 1), err
    assert err.startswith("isolora: --out: ")
    assert sorted(place.name for place in tmp_path.iterdir()) == ["file"]


def test_a_failed_start_leaves_nothing(base: dict[str, Any], tmp_path: Path) -> None:
    wrong = a_run({**base, "method": {"name": "lora", "targets": ["nowhere"]}})
    with pytest.raises(ConfigError):
        train(wrong, tmp_path / "new" / "out", quiet=True)
    assert not (tmp_path / "new").exists()


def test_several_ranks_of_a_study_are_refused(base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    study = parse(StudyConfig, {"name": "twice", "base": base, "grid": {"seed": [0, 1]}})
    with pytest.raises(ConfigError, match="WORLD_SIZE: 2 processes were launched, and `isolora study` runs in one"):
        run_study(study, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_the_believed_checkpoint_is_named(tmp_path: Path) -> None:
    for step in (5, 10):
        checkpoint.save(tmp_path, step, {"a": torch.zeros(1)}, {"step": step})
    (tmp_path / "step-000000010" / checkpoint.MANIFEST).write_text("[[], null]")
    assert checkpoint.rejected(tmp_path) == {"step-000000010": "manifest.json cannot be read"}
    (tmp_path / "step-000000005" / checkpoint.STATE).write_text("{}")
    assert checkpoint.rejected(tmp_path)["step-000000005"] == "state.json does not match its SHA-256"
    assert checkpoint.newest(tmp_path) is None


def test_another_living_process_keeps_its_half_written_checkpoint(tmp_path: Path) -> None:
    living, dead, other = (tmp_path / f".writing-{name}" for name in (f"{os.uname().nodename}-1", "999999999", "elsewhere-1"))
    for place in (living, dead, other):
        place.mkdir()
    checkpoint.save(tmp_path, 1, {"a": torch.zeros(1)}, {})
    assert living.exists()
    assert other.exists()
    assert not dead.exists()


@pytest.mark.parametrize("log", [False, True], ids=["closed", "killed"])
def test_a_folder_that_cannot_be_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: bool) -> None:
    connection = sqlite3.connect(Store(tmp_path).path)
    connection.execute("INSERT INTO runs (run, stage, state) VALUES ('r', 'grid', 'DIVERGED')")
    connection.commit()
    if not log:
        connection.close()
    monkeypatch.setattr(stores, "_is_writable", lambda folder: False)
    assert Store(tmp_path).states() == {"r": DIVERGED}
    connection.close()


def test_stores_of_earlier_versions_get_the_columns_of_all_tables(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with sqlite3.connect(store.path) as connection:
        for table, column in (("runs", "reason"), ("runs", "changed"), ("trials", "rungs"), ("points", "forgetting")):
            connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        connection.execute("INSERT INTO runs (run, stage, state) VALUES ('r', 'grid', 'PENDING')")
    connection.close()
    newer = Store(tmp_path)
    newer.set_state(["r"], FAILED, "why")
    newer.note("r", {"a": 1})
    (row,) = newer.runs()
    assert (row["state"], row["reason"], row["environment"]) == (FAILED, "why", '{"a":1}')
    assert PENDING not in newer.states().values()
    assert newer.trials() == []


def test_the_time_that_is_left(base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, step, taken = a_study(base, stack=1), Stack.step, []

    def stopped(stack: Stack) -> None:
        taken.append(stack.names)
        if len({tuple(names) for names in taken}) == 3:
            raise KeyboardInterrupt
        step(stack)

    with monkeypatch.context() as patched:
        patched.setattr(Stack, "step", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_study(study, tmp_path, quiet=True)
    found = status(tmp_path)
    assert dict(found.states) == {"queued": 1, "interrupted": 1, "complete": 2}
    mean = sum(point["seconds"] for point in Store(tmp_path).last_points()) / 2
    assert found.seconds_left == pytest.approx(2 * mean, rel=0.1)
    assert run_study(study, tmp_path, quiet=True).ended() == set(Store(tmp_path).states())
    assert status(tmp_path).seconds_left == 0
