"""The demo on a study of seconds: the whole story, with every key that other tools may rely on."""

from __future__ import annotations

import importlib
import json
import sys

import pytest

from isolora import cli
from isolora.adapters import load
from isolora.config import StudyConfig, parse
from isolora.store import Store

SMALL = {
    "name": "demo",
    "base": {
        "data": {"train_examples": 600, "eval_examples": 10},
        "training": {"tokens": 2500, "learning_rate": 5e-3, "batch_tokens": 256, "evaluate_from": 300, "evaluate_ratio": 1.4142},
    },
    "grid": {"model": ["nano-55k", "nano-150k", "nano-440k"], "method.rank": [2, 32]},
}
PROMISED = {"seconds", "points", "law", "recommendation", "verification", "report"}
PROVEN = {"predicted", "interval", "measured", "relative_error", "flops_over_largest_fitted"}


def test_the_story_is_whole(tmp_path, monkeypatch, capsys):
    module = importlib.import_module("isolora.study.demo")
    monkeypatch.setattr(module, "demo_study", lambda seed: parse(StudyConfig, SMALL))
    monkeypatch.setattr(module.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(sys, "argv", ["isolora", "demo", "--json", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    story = json.loads(capsys.readouterr().out)
    assert story.keys() >= PROMISED
    proof = story["verification"]
    assert proof.keys() >= PROVEN
    assert proof["flops_over_largest_fitted"] >= 4
    assert story["recommendation"]["model"] in SMALL["grid"]["model"]
    assert proof["relative_error"] == abs(proof["predicted"] - proof["measured"]) / proof["measured"]
    tokens = {
        kind: [point["tokens"] for point in Store(tmp_path).points() if point["stage"] == kind] for kind in ("grid", "verify")
    }
    assert len(tokens["verify"]) > 1
    assert min(tokens["verify"]) >= max(tokens["grid"])  # evaluated from where the study ended
    page = (tmp_path / "report.html").read_text()
    assert "https://" not in page.split("<script")[0]
    assert load(tmp_path).generate("Python library for", max_new_tokens=8)
