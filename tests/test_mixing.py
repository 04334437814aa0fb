"""Several sources in one run: each read in its own way and scored by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny

from isolora import evaluation
from isolora.config import MixConfig, RunConfig, parse
from isolora.errors import ConfigError
from isolora.training.training_run import train

OTHERS = [{"goal": tiny.words(4, row), "answer": "w9"} for row in range(80)]
MIX = {"share": 0.5, "name": "goals", "columns": {"completion": "answer"}, "task": {"template": "w50 {{ goal }}"}}


def a_run(folder: Path, task: Any = "instruction", mix: dict[str, Any] = MIX, others: Any = OTHERS, **changes: Any) -> RunConfig:
    """Prompts of four words, half of the examples from another source."""
    rows = [{"prompt": tiny.words(4, row), "completion": "w7 w8", "chosen": "w7", "rejected": "w8"} for row in range(60)]
    config = tiny.from_rows(folder, "llama", task, rows, **changes)
    part = MixConfig(source=tiny.json_lines(folder / "others.jsonl", others), **mix)
    return config.model_copy(update={"data": config.data.model_copy(update={"mix": (part,)})})


def test_each_source_has_its_own_columns_and_template(tmp_path: Path) -> None:
    ready = tiny.prepared(a_run(tmp_path))
    half = len(ready.train) // 2
    assert ready.train.label_counts.tolist() == [3] * half + [2] * half, "w7 w8 and the end, w9 and the end"
    assert [(name, len(on.examples)) for name, on in ready.mixed.items()] == [("goals", 5)]
    goals = ready.mixed["goals"].examples
    assert set(goals.ids[goals.starts[:-1]]) == {50}
    assert len(ready.held_out.examples) == 5, "the loss is the main source's"


def test_each_source_has_its_own_scores(tmp_path: Path) -> None:
    done = train(a_run(tmp_path, steps=2), tmp_path / "run", quiet=True)
    again = evaluation.evaluate(done["adapter"])
    scores = ("exact_match", "rouge1", "rouge2", "rougeL", "rougeLsum")
    restated = {"perplexity", "bits_per_byte"}
    assert again["metrics"].keys() == restated | {name for own in scores for name in (own, f"goals/{own}")}
    assert again["metrics"] == again["recorded_metrics"]
    assert again["relative_difference"] < 1e-5


def test_other_answers_are_compared_with_the_base_too(tmp_path: Path) -> None:
    pairs = [{"goal": tiny.words(4, row), "chosen": "w9", "rejected": "w10"} for row in range(80)]
    mix = {"share": 0.5, "columns": {"prompt": "goal"}}
    done = train(a_run(tmp_path, "preference", mix, pairs, steps=2), tmp_path / "run", quiet=True)
    metrics = evaluation.evaluate(done["adapter"])["metrics"]
    assert {"reward_accuracy", "others.jsonl/reward_accuracy"} <= metrics.keys()


def test_slips_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.mix: task\.templat: unknown key 'templat'; did you mean 'template'"):
        tiny.prepared(a_run(tmp_path, mix={**MIX, "task": {"templat": "w2"}}))
    with pytest.raises(ConfigError, match=r"data\.mix: two sources have the same name \(names: b, b\)"):
        parse(RunConfig, {"data": {"mix": [{"source": "a/b", "share": 0.1}, {"source": "b", "share": 0.1}]}})
