"""What a stack asks of a Ray cluster: told without Ray, since the nodes are given. And where a local cluster listens."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

from isolora.runs.workspace import Workspace
from isolora.study.executors import ray as ray_executor
from isolora.study.executors.ray import PROCESS_BYTES, stack_bytes, task_options
from isolora.study.study_price import priced_run

GIB = 2**30
LISTENING = """
import os, psutil, time
from isolora.study.executors.ray import cluster
with cluster(None, 2) as ray:
    work = ray.remote(lambda: time.sleep(3))
    tasks = [work.remote() for _ in range(2)]
    time.sleep(2)
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    for process in processes:
        for socket in process.net_connections(kind="inet"):
            if socket.status == psutil.CONN_LISTEN:
                print("listens", process.name(), socket.laddr.ip)
    ray.get(tasks)
"""


def node(memory: int, alive: bool = True, **more: Any) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": 4.0, "memory": float(memory), **more}}


def test_a_stack_asks_for_what_its_members_are_predicted_to_take(tmp_path: Path) -> None:
    one, workspace = tiny.from_files(tmp_path), Workspace()
    each = priced_run("", one, workspace).memory_bytes
    assert each is not None
    assert 10_000 < each < 10_000_000
    two = [one, one.model_copy(update={"seed": 1})]
    assert stack_bytes(two, workspace) == PROCESS_BYTES + 2 * each
    asked = {"num_cpus": 1, "num_gpus": 0, "memory": PROCESS_BYTES + 2 * each}
    assert task_options(two, [node(GIB // 2), node(3 * GIB)], workspace, tmp_path) == asked


@pytest.mark.parametrize(
    ("nodes", "gpus", "memory"),
    [
        ([node(8 * GIB)], 0, 5 * GIB),
        ([node(8 * GIB), node(8 * GIB, GPU=2.0)], 1, 5 * GIB),
        ([node(4 * GIB), node(99 * GIB, alive=False, GPU=2.0)], 0, 4 * GIB),  # what no living node has would be waited for
        ([], 0, 0),
    ],
)
def test_nothing_is_asked_that_no_node_has(
    nodes: list[Any], gpus: int, memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray_executor, "stack_bytes", lambda job, workspace: 5 * GIB)
    found = task_options([tiny.run()], nodes, Workspace(), tmp_path)
    assert found == {"num_cpus": 1, "num_gpus": gpus, "memory": memory}
    said = f"5.0 GiB are predicted, and no node of the cluster offers more than {memory / GIB:.1f}; it is tried there"
    assert (said in capsys.readouterr().err) is (memory < 5 * GIB)


def test_what_cannot_be_told_is_not_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = tiny.from_files(tmp_path).model_copy(update={"model": str(tmp_path / "nowhere")})
    assert stack_bytes([lost], Workspace()) is None
    assert task_options([lost], [node(GIB)], Workspace(), tmp_path) == {"num_cpus": 1, "num_gpus": 0}
    assert "isolora:" not in capsys.readouterr().err


def test_every_process_of_a_local_cluster_listens_on_loopback_alone() -> None:
    """Of a cluster that is started for a study alone: nobody on another machine reaches any of it."""
    pytest.importorskip("ray")
    ended = subprocess.run([sys.executable, "-c", LISTENING], capture_output=True, text=True, timeout=120, check=True)
    found = [line.split()[1:] for line in ended.stdout.splitlines() if line.startswith("listens")]
    assert {"gcs_server", "raylet"} <= {name for name, _ in found}
    strangers = [(name, address) for name, address in found if not on_loopback(address)]
    assert (len(found) >= 5, strangers) == (True, [])


def on_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback
