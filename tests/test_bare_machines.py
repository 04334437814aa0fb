"""Machines that lack what is taken for granted, and texts that do not fit: a run goes on, and says what is so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch

from isolora.config import DataConfig, ForgettingConfig
from isolora.evaluation import evaluate
from isolora.evaluation.held_out import forget
from isolora.store import Store
from isolora.training import train

torch.set_num_threads(1)


def test_training_needs_no_program_on_the_path(tmp_path: Path) -> None:
    """Without git it ended in a traceback when the adapter was saved, as in every slim container."""
    config = tiny.from_files(tmp_path, steps=1)
    words = [f"model={config.model}", f"data.source={config.data.source}", "data.eval_examples=5", "training.steps=1"]
    command = [sys.executable, "-m", "isolora", "train", *words, "--out", str(tmp_path / "out"), "--json"]
    bare = {name: value for name, value in os.environ.items() if name not in ("PATH", "HOME", "LANG", "USER")}
    done = subprocess.run(command, env={**bare, "PATH": ""}, capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["state"]) == (0, "complete"), done.stderr
    record = json.loads((tmp_path / "out" / "adapter" / "isolora.json").read_text())
    assert not record["environment"].get("commit")


@pytest.mark.parametrize("method", ["prompt", "p-tuning", "prefix"])
def test_forgetting_is_measured_within_the_models_positions(method: str, tmp_path: Path) -> None:
    """Texts beyond them, less the virtual tokens, were an IndexError of the model's table."""
    long = tmp_path / "long.txt"
    long.write_text("\n\n".join(tiny.words(100, seed) for seed in range(30)))
    config = tiny.run(method={"name": method, "virtual_tokens": 5}, steps=1, batch_tokens=64)
    data = DataConfig(source=str(tiny.texts(tmp_path / "texts.txt")), eval_examples=5)
    config = config.model_copy(update={"model": tiny.save(tmp_path / "model", tiny.gpt2()), "data": data})
    ended = train(config.model_copy(update={"forgetting": ForgettingConfig(sources=(str(long),), examples=2)}), tmp_path / "out")
    found = forget(ended["adapter"])["sources"][str(long)]
    assert found["texts"] == 2
    assert 0 < found["before"] < 10
    assert Store(tmp_path / "out").points()[-1]["forgetting"] == pytest.approx(found["forgotten"], abs=1e-5)


def test_a_regression_has_no_perplexity(tmp_path: Path) -> None:
    """It was infinite."""
    rows = [{"text": f"w{2 + n % 20} w3", "label": 1000.5 * n} for n in range(60)]
    config = tiny.from_files(tmp_path, steps=1)
    data = DataConfig(source=tiny.json_lines(tmp_path / "rows.jsonl", rows), eval_examples=5)
    task = config.task.model_validate({"name": "sequence-classification", "problem_type": "regression"})
    train(config.model_copy(update={"data": data, "task": task}), tmp_path / "out", quiet=True)
    measured = evaluate(tmp_path / "out", repeats=20)["metrics"]
    assert "pearson" in measured
    assert not {"perplexity", "bits_per_byte"} & measured.keys()
