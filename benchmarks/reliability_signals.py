"""Row 19: Ctrl-C and TERM, to everything that trains."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import yaml
from tried import (
    a_long_proof,
    a_study,
    alive,
    below,
    files,
    has_checkpoint,
    one_line,
    one_run,
    row,
    run,
    start,
    states,
    wait_for,
)


@row("19 Ctrl-C and TERM")
def signals(work: Path, short: bool) -> Iterator[bool]:
    """Studies with one and two workers and on Ray, a search, a run alone, a proof; then a study that is told twice."""
    study = a_study(work, 200_000)
    told = {f"study-{count}": ["study", study, "--workers", count] for count in ((2,) if short else (1, 2))}
    if not short:
        told |= {"search": ["study", a_long_search(work), "--workers", 2], "train": ["train", *one_run(work, 2_000_000)]}
    if not short and find_spec("ray"):
        told["ray"] = ["study", study, "--executor", "ray", "--workers", 2]
    for name, words in told.items():
        for number in (signal.SIGINT, signal.SIGTERM):
            out = work / f"{name}-{number}"
            yield stopped(start(*words, "--out", out, start_new_session=True), out, number)
    if not short:
        yield from stopped_proofs(work)
    out = work / "twice"
    process = start("study", study, "--out", out, "--workers", 2)
    wait_for(lambda: has_checkpoint(out))
    others = below(process.pid)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    yield process.returncode == 130 and wait_for(lambda: not any(map(alive, others)), 5)


def stopped_proofs(work: Path) -> Iterator[bool]:
    """`verify` is told twice, goes on each time from where it was, and then ends with its proof."""
    out = work / "proof"
    run("study", a_long_proof(work), "--out", out)
    words = ["verify", out, "--budget", "4e9flops", "--bootstrap", 20]
    for number in (signal.SIGINT, signal.SIGTERM):
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        yield stopped(start(*words, start_new_session=True), out, number)
    status, text, _ = run(*words, "--json")
    yield status == 0 and json.loads(text)["flops_over_largest_fitted"] > 50 and set(states(out)) == {"complete"}


def stopped(process: subprocess.Popen[str], out: Path, number: signal.Signals) -> bool:
    """Whether what trains into a folder ends within 20 s of a signal, in one line, with its exit status, and nobody is left."""
    wait_for(lambda: has_checkpoint(out))
    others, started = below(process.pid), time.monotonic()
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, err = process.communicate(timeout=60)
    took, ended = time.monotonic() - started, set(states(out))
    gone = wait_for(lambda: not any(map(alive, others)), 5)
    kept = ended <= {"interrupted", "queued", "complete", "pruned"} and "interrupted" in ended
    return process.returncode == 128 + number and gone and took < 20 and one_line(err) and kept


def a_long_search(work: Path) -> Path:
    space = {"training.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}
    given = {"base": json.loads(json.dumps(files(work))), "search": {"space": space, "trials": 4, "startup": 2}, "stack": 2}
    given["base"]["training"] |= {"tokens": 200_000, "checkpoint_seconds": 0.2}
    path = work / "search.yaml"
    path.write_text(yaml.safe_dump(given))
    return path
