"""Rows 16 and 21: a study on Ray, and one run on two processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tried import a_study, points, row, run, start, states, tests, wait_for

STALE = Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster"
"""Where Ray keeps the address of the cluster that was started last."""


@row("16 Ray")
def on_ray(work: Path, short: bool) -> Iterator[bool]:
    """Without Ray nothing is tried. Each time the table has to be that of a local study, or the answer one line within 20 s."""
    try:
        import ray
    except ImportError:
        return
    print(f"Ray {ray.__version__}")
    study = a_study(work, 300, **{"method.rank": [2, 4]})
    run("study", study, "--out", work / "local")
    STALE.parent.mkdir(exist_ok=True)
    STALE.write_text("127.0.0.1:6399")  # a cluster that is gone: it is not looked for
    yield completes(study, work, "started")
    STALE.unlink(missing_ok=True)
    yield from tests("test_ray_resources.py", "loopback", work)
    began = time.perf_counter()
    status, _, err = run("study", study, "--out", work / "dead", "--executor", "ray", "--address", "127.0.0.1:6399")
    took = time.perf_counter() - began
    print(f"a dead address: {took:.1f} s, the start of Python with it")
    yield status == 2 and err.count("\n") == 1 and took < 20
    with two_nodes(work) as (address, second):
        yield completes(study, work, "given", "--address", address)
        yield outlives_a_node(work, address, second)


def completes(study: Path, work: Path, name: str, *words: str) -> bool:
    out = work / name
    status, _, err = run("study", study, "--out", out, "--executor", "ray", "--workers", 2, *words)
    if status:
        print(err, file=sys.stderr)
    return status == 0 and points(out) == points(work / "local")


def outlives_a_node(work: Path, address: str, second: subprocess.Popen[bytes]) -> bool:
    """Two stacks on two nodes of one CPU each, of which one is killed."""
    study, out = a_study(work, 6000), work / "lost-a-node"
    run("study", study, "--out", work / "undisturbed")
    process = start("study", study, "--out", out, "--executor", "ray", "--address", address)
    begun = wait_for(lambda: len({path.parent for path in out.glob("checkpoints/*/step-*")}) > 1 or process.poll() is not None)
    os.killpg(second.pid, signal.SIGKILL)
    _, err = process.communicate(timeout=600)
    if process.returncode:
        print(err, file=sys.stderr)
    return begun and process.returncode == 0 and set(states(out)) == {"complete"} and points(out) == points(work / "undisturbed")


@contextmanager
def two_nodes(work: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A cluster of two Ray nodes of one CPU each on this machine: its address, and the process group of the second."""
    address = f"127.0.0.1:{free_port()}"
    ray = [shutil.which("ray", path=str(Path(sys.executable).parent)) or "ray", "start", "--block", "--num-cpus=1"]
    head = ["--head", "--node-ip-address=127.0.0.1", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false"]
    with (work / "ray.txt").open("wb") as told:
        how = {"stdout": told, "stderr": told, "start_new_session": True}
        nodes = [subprocess.Popen([*ray, *head, f"--temp-dir={work}/r"], **how)]  # type: ignore[call-overload]
        try:
            wait_for(lambda: answers(address), 60)
            nodes.append(subprocess.Popen([*ray, f"--address={address}"], **how))  # type: ignore[call-overload]
            wait_for(lambda: nodes_of(address) == 2, 60)
            yield address, nodes[1]
        finally:
            for node in nodes:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait()


def nodes_of(address: str) -> int:
    """Living nodes, as a process of its own is told: one that has used Ray cannot be forked."""
    code = f"import ray; ray.init(address={address!r}, logging_level='ERROR'); print(sum(n['Alive'] for n in ray.nodes()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout.split()
    return int(found[-1]) if found and found[-1].isdigit() else 0


def answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@row("21 two processes, gloo")
def ranks(work: Path, short: bool) -> Iterator[bool]:
    """Losses within 1e-5 of one process: micro-batches, few rows, a sharded base, AdaLoRA; interrupted together."""
    yield from tests("test_ranks.py", "train_as_one or asks_for_a_launcher" if short else "not nothing", work)
