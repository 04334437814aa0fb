"""Sizes: small, medium and large are 1, 10 and 100 % of the training examples, one within the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from isolora import data
from isolora.config import DataConfig, RunConfig, StudyConfig, parse
from isolora.cost.estimate import cost
from isolora.errors import ConfigError
from isolora.store import Store
from isolora.study.design import grid_runs
from isolora.study.running import run_study
from isolora.training import train

torch.set_num_threads(1)
SIZES = ("small", "medium", "large")


def documents(size: Any, **fields: Any) -> data.Documents:
    return data.load_documents(DataConfig(train_examples=size, eval_examples=5, **fields)).train


def test_shares_of_the_packaged_descriptions() -> None:
    drawn = {size: documents(size) for size in SIZES}
    everything = len(documents(None))
    assert [len(drawn[size]) for size in SIZES] == [round(everything / 100), round(everything / 10), everything]
    assert drawn["large"].texts[: len(drawn["medium"])] == drawn["medium"].texts
    assert drawn["medium"].texts[: len(drawn["small"])] == drawn["small"].texts
    assert documents("small", seed=1).texts != drawn["small"].texts
    assert drawn["medium"].fingerprint == documents(len(drawn["medium"])).fingerprint


def test_something_is_left_of_a_little(tmp_path: Path) -> None:
    source = tiny.json_lines(tmp_path / "a.jsonl", ({"text": f"w{number}"} for number in range(20)))
    assert len(documents("small", source=source)) == 1


def test_a_number_may_be_written_out() -> None:
    assert DataConfig(train_examples="500").train_examples == 500


@pytest.mark.parametrize(("given", "hint"), [("mediun", "; did you mean 'medium'?"), ("10%", "")])
def test_a_wrong_word_is_one_line(given: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(RunConfig, {"data": {"train_examples": given}})
    said = f"data.train_examples: unknown size '{given}'{hint} (valid: large, medium, small), or a whole number"
    assert str(refused.value) == said


def test_no_number_is_one_line_too() -> None:
    with pytest.raises(ConfigError, match=r"^data\.train_examples: .*greater than 0 \(got 0\)$"):
        parse(RunConfig, {"data": {"train_examples": 0}})


def rows(path: Path, count: int) -> str:
    return tiny.json_lines(path, ({"text": tiny.words(5 + seed % 8, seed)} for seed in range(count)))


def test_a_grid_of_sizes(tmp_path: Path) -> None:
    base = {
        "model": tiny.save(tmp_path / "model", tiny.llama()),
        "data": {"source": rows(tmp_path / "a.jsonl", 300), "eval_examples": 5},
        "training": {"steps": 8, "batch_tokens": 512},
    }
    config = parse(StudyConfig, {"base": base, "grid": {"data.train_examples": list(SIZES)}})
    assert [run.data.train_examples for run in grid_runs(config)] == list(SIZES)
    run_study(config, tmp_path / "out", quiet=True)
    last = {json.loads(point["config"])["data"]["train_examples"]: point for point in Store(tmp_path / "out").points()}
    assert [last[size]["unique_examples"] for size in SIZES] == [2, 24, 242]


def test_costs_and_trains(tmp_path: Path) -> None:
    given = {"model": tiny.save(tmp_path / "model", tiny.llama()), "training": {"epochs": 1}}
    config = parse(RunConfig, {**given, "data": {"source": rows(tmp_path / "a.jsonl", 100), "train_examples": "medium"}})
    result = train(config, tmp_path / "out", quiet=True)
    assert result["tokens"] == cost(config).tokens
    assert result["passes"] == 1
