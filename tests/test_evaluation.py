"""Re-evaluation: the folder alone gives back the loss that training recorded."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from isolora.adapters import RECORD
from isolora.config import RunConfig
from isolora.errors import ConfigError, DataError
from isolora.evaluation import evaluate
from isolora.evaluation.held_out import loss_interval
from isolora.metrics.perplexity import perplexity
from isolora.runs.prepared import PreparedRun
from isolora.store import Store
from isolora.training import train, train_stack
from isolora.training.evaluator import Evaluator

torch.set_num_threads(1)
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"method": {"dropout": 0.3}},
    "rank-stabilised, LoRA+": {"method": {"rank_stabilised": True, "b_learning_rate_ratio": 4}},
    "embedding": {"method": {"targets": ["embed_tokens", "q_proj"]}},
    "accumulation": {"accumulation": 3},
    "plain average": {"averaging": 0},
}


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    return tiny.from_files(tmp_path, steps=8, learning_rate=5e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_recorded_loss_comes_back(kind: str, tmp_path: Path) -> None:
    changes = {"steps": 8, "learning_rate": 5e-2, **KINDS[kind]}
    ended = train(tiny.from_files(tmp_path, **changes), tmp_path / "out", quiet=True)
    result = evaluate(tmp_path / "out")
    assert result["recorded_loss"] == ended["loss"]
    assert result["loss"] == pytest.approx(ended["loss"], rel=1e-6)
    assert result["relative_difference"] == abs(result["loss"] - ended["loss"]) / ended["loss"]
    assert result["perplexity"] == pytest.approx(math.exp(ended["loss"]), rel=1e-5)


def test_a_member_of_a_stack_comes_back_too(run: RunConfig, tmp_path: Path) -> None:
    other = tiny.run(seed=1, method={"rank": 8}, steps=8, learning_rate=2e-2)
    stack = [run, run.model_copy(update={"seed": 1, "method": other.method, "training": other.training})]
    store = Store(tmp_path / "out")
    losses = []
    for name in train_stack(stack, store, "grid", quiet=True):
        result = evaluate(tmp_path / "out" / "adapters" / name)
        losses.append(store.points(name)[-1]["loss"])
        assert result["recorded_loss"] == losses[-1]
        assert result["relative_difference"] < 1e-6
    assert losses[0] != losses[1]


def test_the_adapters_folder_is_enough(run: RunConfig, tmp_path: Path) -> None:
    train(run, tmp_path / "out", quiet=True)
    here = evaluate(tmp_path / "out")
    shutil.move(tmp_path / "out" / "adapter", tmp_path / "moved")
    shutil.rmtree(tmp_path / "out")
    assert evaluate(tmp_path / "moved") == here


def test_what_was_measured_is_counted(run: RunConfig, tmp_path: Path) -> None:
    """Five held-out texts of the 60; each has a label less than words."""
    train(run, tmp_path / "out", quiet=True)
    result = evaluate(tmp_path / "out")
    assert result["examples"] == 5
    assert 5 * 4 <= result["labelled_tokens"] <= 5 * 11


def test_the_other_split_is_measured_alike(run: RunConfig, tmp_path: Path) -> None:
    """A run that was measured on the test split recorded there what `split` gives for one that was not."""
    train(run, tmp_path / "out", quiet=True)
    on_test = run.model_copy(update={"data": run.data.model_copy(update={"eval_split": "test"})})
    ended = train(on_test, tmp_path / "on-test", quiet=True)
    found = evaluate(tmp_path / "out", split="test")
    assert found["split"] == "test"
    assert found["loss"] == pytest.approx(ended["loss"], rel=1e-6)
    assert found["loss"] != evaluate(tmp_path / "out")["loss"]
    assert "recorded_loss" not in found
    with pytest.raises(ConfigError, match="unknown split 'train'"):
        evaluate(tmp_path / "out", split="train")


def test_without_the_adapter_the_base_is_measured(run: RunConfig, tmp_path: Path) -> None:
    trained = train(run, tmp_path / "out", quiet=True)["loss"]
    result = evaluate(tmp_path / "out", repeats=0, bare=True)
    with PreparedRun.load(run) as ready:
        fresh = ready.attach([run])  # adds nothing before training
        untrained = Evaluator(run, ready.base, fresh).losses(ready.examples.held_out, [0])[0]
    assert result["loss"] == pytest.approx(untrained, rel=1e-6)
    assert abs(result["loss"] - trained) > 0.01
    assert "recorded_loss" not in result


def test_intervals_enclose_what_was_measured(run: RunConfig, tmp_path: Path) -> None:
    """Perplexity is exp of the loss, and so are the ends of its interval."""
    train(run, tmp_path / "out", quiet=True)
    result = evaluate(tmp_path / "out")
    low, high = result["intervals"]["loss"]
    assert low < result["loss"] < high
    assert result["intervals"]["perplexity"] == pytest.approx((math.exp(low), math.exp(high)))
    assert result["intervals"].keys() == {"loss", *result["metrics"]}
    assert evaluate(tmp_path / "out", repeats=0)["intervals"] == {}


def test_a_documents_windows_are_drawn_together() -> None:
    """Of 100 documents, half with loss 1 and half with 3 a token, each in four windows: the normal distribution's interval for
    100 draws, where 400 independent ones would give half of it."""
    examples = replace(tiny.examples([5] * 400), documents=np.repeat(np.arange(100), 4))
    losses = np.repeat([4.0, 12.0], 200)
    half_width = 1.96 / math.sqrt(100)
    found = loss_interval(replace(tiny.stack([tiny.run()]).examples.held_out, examples=examples), losses, 2000)
    assert found == pytest.approx((2 - half_width, 2 + half_width), abs=0.03)


def test_lost_texts_are_one_line(run: RunConfig, tmp_path: Path) -> None:
    train(run, tmp_path / "out", quiet=True)
    record = tmp_path / "out" / "adapter" / RECORD
    config = json.loads(record.read_text())
    config["config"]["data"]["source"] = str(tmp_path / "lost.txt")
    record.write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"no such file: .*lost\.txt \(in that folder: texts\.txt\)"):
        evaluate(tmp_path / "out")


def test_perplexity_of_a_hopeless_loss_is_infinite() -> None:
    assert perplexity(0.0) == 1
    assert perplexity(709.0) == math.exp(709)
    assert perplexity(710.0) == perplexity(math.inf) == math.inf
    assert math.isnan(perplexity(math.nan))
