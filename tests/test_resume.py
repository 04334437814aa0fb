"""A study killed with SIGKILL three times at random moments ends with the same table of points as one that was left alone."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

STUDY = """
name: killed
base:
  model: nano-55k
  data: {train_examples: 400, eval_examples: 20}
  method: {name: lora, dropout: 0.1}
  training: {tokens: 60000, batch_tokens: 512, evaluate_from: 1000, checkpoint_seconds: 0.5}
grid: {method.rank: [2, 4], training.learning_rate: [5.0e-3, 1.0e-2], seed: [0, 1]}
tune: {over: training.learning_rate, tokens: 8000}
stack: 2
"""
MEASURED_ANEW = {"seconds", "peak_memory_bytes"}
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(file: Path, out: Path) -> subprocess.Popen[bytes]:
    words = ["study", str(file), "--out", str(out), "--json"]
    return subprocess.Popen(
        [sys.executable, "-c", "from isolora.cli import main; main()", *words], env=ONE_THREAD, stdout=subprocess.DEVNULL
    )


def points(out: Path) -> list[dict[str, object]]:
    connection = sqlite3.connect(f"file:{out / 'study.sqlite'}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        rows = connection.execute("SELECT * FROM points ORDER BY run, tokens").fetchall()
    finally:
        connection.close()
    return [{key: row[key] for key in row.keys() if key not in MEASURED_ANEW} for row in rows]  # noqa: SIM118


def count(out: Path) -> int:
    try:
        return len(points(out))
    except sqlite3.OperationalError:
        return 0


@pytest.mark.slow
def test_three_kills_leave_no_trace(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    assert start(file, tmp_path / "whole").wait() == 0
    rng = random.Random(os.getpid())
    for _ in range(3):
        before = count(tmp_path / "killed")
        process = start(file, tmp_path / "killed")
        while count(tmp_path / "killed") <= before and process.poll() is None:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 1))
        assert process.poll() is None, "the study ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(file, tmp_path / "killed").wait() == 0
    assert points(tmp_path / "killed") == points(tmp_path / "whole")
    assert len(points(tmp_path / "whole")) > 20
