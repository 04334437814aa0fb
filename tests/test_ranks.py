"""Several processes on one run take the steps that one process takes, and write what it writes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import studies

from isolora.child_process import start_worker
from isolora.config import RunConfig, parse
from isolora.errors import ConfigError
from isolora.store import Store
from isolora.training import train
from isolora.training.ranks import ALONE, Ranks

SCRIPT = Path(__file__).with_name("several_ranks.py")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return studies.base(tmp_path_factory.mktemp("files"), tokens=900, batch_tokens=90, evaluate_from=200)


def with_training(base: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {**base, "training": {**base["training"], **settings}}


def written(folder: Path, *runs: dict[str, Any]) -> Path:
    file = folder / "runs.json"
    file.write_text(json.dumps([named for part in runs for named in part.items()]))
    return file


def launch(folder: Path, *runs: dict[str, Any], wait: bool = True) -> subprocess.Popen[bytes]:
    """By `torchrun`."""
    file = written(folder, *runs)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(SCRIPT), str(file)]
    with (folder / "errors.txt").open("wb") as errors:
        started = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=errors)
    if wait:
        assert started.wait(180) == 0, (folder / "errors.txt").read_text()[-3000:]
    return started


def ranks_of(monkeypatch: pytest.MonkeyPatch, count: int) -> Iterator[int]:
    """One after the other, with this process's environment as `torchrun` would make it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    for rank in range(count):
        for name, value in {**told, "RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "OMP_NUM_THREADS": 1}.items():
            monkeypatch.setenv(name, str(value))
        yield rank
    for name in (*told, "RANK", "LOCAL_RANK", "GROUP_RANK"):
        monkeypatch.delenv(name)


def points(folder: Path) -> list[tuple[float, float, float]]:
    return [(point["tokens"], point["loss"], point["flops"]) for point in Store(folder).points()]


def assert_like_one_process(folder: Path, name: str, given: dict[str, Any]) -> None:
    train(parse(RunConfig, with_training(given, shard_base=False)), folder / "alone" / name, quiet=True)
    together, alone = points(folder / name), points(folder / "alone" / name)
    assert [found[::2] for found in together] == [found[::2] for found in alone]
    assert len(alone) > 1
    assert [found[1] for found in together] == pytest.approx([found[1] for found in alone], rel=1e-5)


def test_two_processes_train_as_one(base: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`torchrun` itself, which takes ten processor seconds to begin, starts those of the slow test below."""
    runs = {
        "micro-batches": with_training(base, accumulation=3),
        "few-rows": with_training(base, batch_tokens=20),  # some steps have one row for two processes
        "sharded": with_training(base, shard_base=True, gradient_checkpointing=True),
        "adalora": {**base, "method": {"name": "adalora", "init_rank": 4, "target_rank": 2}},
    }
    refused = {
        "everything-trained": {**with_training(base, shard_base=True), "method": {"name": "full"}},
        "another-trainer": with_training(base, trainer="hf"),
        "micro-batches": base,  # its folder holds another run
    }
    file, errors = str(written(tmp_path, runs, refused)), tmp_path / "errors.txt"
    started = [start_worker("several_ranks", "ready", file, str(errors)) for _ in ranks_of(monkeypatch, 2)]
    for process in started:
        process.join(180)
    assert [process.exitcode for process in started] == [0, 0], errors.read_text()[-3000:]
    for name, given in runs.items():
        assert_like_one_process(tmp_path, name, given)
        assert (tmp_path / name / "adapter" / "isolora.json").is_file()
    lines = {name: (tmp_path / f"{name}.refused").read_text() for name in refused}
    assert "the method trains every weight" in lines["everything-trained"]
    assert "hf runs in one process, and 2 were launched (valid here: native)" in lines["another-trainer"]
    assert "holds another run" in lines["micro-batches"]


@pytest.mark.slow
def test_interrupted_together_and_resumed(base: dict[str, Any], tmp_path: Path) -> None:
    given = with_training(base, tokens=12000, evaluate_from=1000)
    started = launch(tmp_path, {"run": given}, wait=False)
    while not (tmp_path / "run").exists() or not points(tmp_path / "run"):
        assert started.poll() is None, "it ended before it could be interrupted"
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    started.wait(60)
    (state,) = Store(tmp_path / "run").states().values()
    assert state == "INTERRUPTED"
    launch(tmp_path, {"run": given})
    assert_like_one_process(tmp_path, "run", given)


def test_a_sharded_base_asks_for_a_launcher(base: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shard_base: this is one process; start several with accelerate launch or torchrun"):
        train(parse(RunConfig, with_training(base, shard_base=True)), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_process_that_nobody_launched_is_one_line(
    base: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """WORLD_SIZE by hand, as in a shell that a launcher has left behind: it was a traceback of accelerate's."""
    words = [f"{name}={json.dumps(value)}" for name, value in base.items() if name != "model"]
    command = ["train", f"model={base['model']}", *words, "--out", str(tmp_path / "out")]
    for name, value in {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    errors = tmp_path / "errors.txt"
    ended = start_worker("several_ranks", "command", command, str(errors))
    ended.join(180)
    assert ended.exitcode == 2
    said = r"isolora: WORLD_SIZE: 2 processes were launched, and this one cannot join them \(.*MASTER_ADDR.*\); start them with"
    assert re.match(said, errors.read_text())
    assert errors.read_text().count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_parts_make_up_the_batch(count: int, rows: int) -> None:
    counted = np.zeros(rows)
    for number in range(count):
        part, weight = Ranks(number, count).part_of(np.arange(rows))
        counted[part] += weight
    assert counted == pytest.approx(np.ones(rows))


def test_alone_nothing_is_sent() -> None:
    assert ALONE.agreed(None) is None
    assert ALONE.agreed(15) == 15
    ALONE.send("anything")
    assert not ALONE.training
