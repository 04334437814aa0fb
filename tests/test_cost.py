"""Cost: what is said before a run is what the run then records."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from person import run

from isolora.config import RunConfig
from isolora.cost.estimate import cost
from isolora.cost.flops import rehearse
from isolora.cost.run_price import Cost, shape_of, table, with_one_step
from isolora.cost.time import Duration
from isolora.errors import ConfigError
from isolora.ledger import PHASES, BatchShape
from isolora.training import train

torch.set_num_threads(1)
RUNS: dict[str, dict[str, Any]] = {
    "steps": {"steps": 7},
    "tokens": {"tokens": 333},
    "passes": {"epochs": 2.5},
    "flops": {"flops": 5e6},
    "accumulation": {"epochs": 1, "accumulation": 3},
    "embedding": {"steps": 3, "method": {"targets": ["embed_tokens", "v_proj"], "rank": 2}},
}


def shapes_only(folder: Path, **changes: Any) -> RunConfig:
    """A run whose base is a folder that holds nothing but config.json."""
    tiny.llama().config.save_pretrained(folder)
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    return tiny.run(**changes).model_copy(update={"model": str(folder)})


@pytest.mark.parametrize("kind", RUNS)
def test_a_whole_run_costs_what_was_said(kind: str, tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path, **RUNS[kind])
    said = cost(config)
    ended = train(config, tmp_path / "out", quiet=True)
    for name in ("tokens", "padding_tokens", "trainable_parameters"):
        assert getattr(said, name) == ended[name] > 0, name
    assert said.steps == ended["step"]
    assert said.flops.total == pytest.approx(ended["flops"], rel=1e-13)  # the same summands, added in another order


def test_a_step_is_priced_by_the_ledger(tmp_path: Path) -> None:
    config = shapes_only(tmp_path, method={"rank": 3})
    step = cost(config, (5, 12))
    assert step.flops == rehearse(config).flops(BatchShape(5, 12, 5 * 11))
    assert (step.tokens, step.padding_tokens, step.steps) == (60, 0, 1)
    assert cost(config, (10, 12)).flops.total == pytest.approx(2 * step.flops.total)
    assert cost(config, (5, 24)).flops.total > 2 * step.flops.total, "attention is quadratic"


def test_parameters_by_hand(tmp_path: Path) -> None:
    """7 linear layers in each of 2 blocks, rank 3; LLaMA without tied embeddings."""
    layers = [(16, 16), (16, 8), (16, 8), (16, 16), (16, 40), (16, 40), (40, 16)]
    answer = cost(shapes_only(tmp_path, method={"rank": 3}), (1, 2)).to_json()
    trained = 2 * sum(3 * (inputs + outputs) for inputs, outputs in layers)
    frozen = 2 * (sum(inputs * outputs for inputs, outputs in layers) + 2 * 16) + 16 + 2 * tiny.VOCABULARY * 16
    assert (answer["trainable_parameters"], answer["all_parameters"]) == (trained, frozen + trained)
    assert answer["trainable_share"] == trained / (frozen + trained)
    assert answer["flops"]["total"] == sum(answer["flops"][phase] for phase in PHASES)


def test_memory_grows_with_the_batch_and_holds_the_weights(tmp_path: Path) -> None:
    config = shapes_only(tmp_path)
    small, large = cost(config, (1, 8)), cost(config, (8, 8))
    assert 4 * small.all_parameters < small.peak_memory_bytes < large.peak_memory_bytes


def test_words_for_a_person(tmp_path: Path) -> None:
    lines = str(cost(shapes_only(tmp_path), (2, 8))).splitlines()
    assert [line[:20].strip() for line in lines if not line.startswith(" ")] == [
        *("trainable parameters", "FLOPs", "tokens", "peak memory", "time")
    ]
    assert any("16 and 0 of padding in 1 steps" in line for line in lines)


def test_the_table_adds_up(tmp_path: Path) -> None:
    """Every number of a row and of a column is shown once, and the totals are theirs."""
    step = cost(shapes_only(tmp_path), (4, 16))
    head, *rows, total = (re.split(r"\s{2,}", line.strip()) for line in table(step.flops))
    assert head == ["forward", "to inputs", "to weights", "all", "share"]
    assert [row[0] for row in rows] == ["attention projections", "attention scores", "feed-forward", "head", "adapter"]
    assert total[0] == "total"
    numbers = np.array([[float(cell) for cell in row[1:-1]] for row in rows])
    assert numbers.sum(0) == pytest.approx([float(cell) for cell in total[1:-1]], rel=5e-3)
    assert numbers[:, :-1].sum(1) == pytest.approx(numbers[:, -1], rel=5e-3)
    assert sum(float(row[-1].removesuffix(" %")) for row in rows) == pytest.approx(100, abs=0.3)


def test_by_group_and_per_token(tmp_path: Path) -> None:
    answer = cost(shapes_only(tmp_path), (4, 16)).to_json()
    groups = answer["flops_by_group"]
    assert sum(sum(phases.values()) for phases in groups.values()) == answer["flops"]["total"]
    assert groups["adapter"]["backward_weights"] == answer["flops"]["backward_weights"] > 0
    assert answer["flops_per_token"] == answer["flops"]["total"] / 64
    assert answer["flops_per_step"] == answer["flops"]["total"]
    assert answer["optimiser_flops"] == 17 * answer["trainable_parameters"]


@pytest.mark.parametrize(
    ("name", "task"),
    [("openai-community/gpt2", "causal-lm"), ("roberta-base", "token-classification"), ("t5-small", "summarization")],
)
def test_a_model_alone_is_priced_for_what_it_is_for(name: str, task: str) -> None:
    assert cost(RunConfig(model=name), (2, 16)).task == task


def test_a_step_within_the_models_positions(tmp_path: Path) -> None:
    config = shapes_only(tmp_path)
    assert cost(config, (1, 64)).tokens == 64
    with pytest.raises(ConfigError, match="length: 65 exceeds the model's 64 positions"):
        cost(config, (1, 65))


def test_a_method_that_does_not_fit_is_told_before_texts_are_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(model="nano-55k", method={"name": "lora", "targets": ["q_prj"]}, training={"steps": 1})
    monkeypatch.setattr("isolora.cost.estimate.RunExamples.of", lambda *_: pytest.fail("20,000 texts are tokenised"))
    with pytest.raises(ConfigError, match="did you mean 'q_proj'"):
        cost(config)


def test_a_whole_run_needs_a_tokenizer(tmp_path: Path) -> None:
    config = shapes_only(tmp_path / "model")
    data = config.data.model_copy(update={"source": str(tiny.texts(tmp_path / "texts.txt"))})
    with pytest.raises(ConfigError, match="model: cannot load") as caught:
        cost(config.model_copy(update={"data": data}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "shape", "rest"),
    [
        ([], None, []),
        (["model=tiny"], None, ["model=tiny"]),
        (["length=64", "model=tiny", "batch=2"], (2, 64), ["model=tiny"]),
        (["training.batch_tokens=64"], None, ["training.batch_tokens=64"]),
    ],
)
def test_shapes_are_taken_out_of_the_words(words: list[str], shape: tuple[int, int] | None, rest: list[str]) -> None:
    assert shape_of(words) == (shape, rest)


def test_a_priced_step_needs_no_budget_of_its_own() -> None:
    """Keys of training beside batch= and length= asked for a budget that the step does not have."""
    assert with_one_step(["training.precision=bfloat16"]) == ["training.precision=bfloat16", "training.steps=1"]
    for words in (["model=tiny"], ["training.precision=bfloat16", "training.tokens=100"]):
        assert with_one_step(words) == words


STEP_TOKENS = 2 * 64
BUDGETS = [("training.steps=300", 300), ("training.tokens=1000", 8), ("training.tokens=1024", 8), ("training.flops=1e12", 0)]


@pytest.mark.parametrize(("word", "steps"), BUDGETS)
def test_a_budget_beside_a_shape_prices_so_many_steps(word, steps, tmp_path, monkeypatch, capsys) -> None:
    """Twice: the second answer is a kept one. Steps of a number of FLOPs: as many as exceed it."""
    monkeypatch.setenv("ISOLORA_CACHE", str(tmp_path))
    one = cli_answer(monkeypatch, capsys)
    steps = steps or math.ceil(1e12 / one["flops"]["total"])
    assert one["steps"] == 1 < steps
    for _ in range(2):
        many = cli_answer(monkeypatch, capsys, word, "--on", "H100", "--utilisation", "0.4", "--price-per-hour", "2.5")
        assert (many["steps"], many["tokens"]) == (steps, steps * STEP_TOKENS)
        assert many["flops"]["total"] == pytest.approx(steps * one["flops"]["total"])
        assert many["flops_per_step"] == pytest.approx(one["flops"]["total"])
        assert many["peak_memory_bytes"] == one["peak_memory_bytes"]
        assert many["price"] == pytest.approx(2.5 * many["seconds"] / 3600)


def cli_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    status, out, _ = run(monkeypatch, capsys, "cost", "model=nano-55k", "batch=2", "length=64", *words, "--json")
    assert status == 0
    found: dict[str, Any] = json.loads(out)
    return found


def test_accumulation_of_a_shape_halves_what_is_kept_at_once() -> None:
    def priced(accumulation: int) -> Cost:
        return cost(RunConfig(model="nano-55k", training={"steps": 5, "accumulation": accumulation}), (4, 64), whole=True)

    once, twice = priced(1), priced(2)
    assert (once.tokens, once.steps) == (twice.tokens, twice.steps) == (5 * 4 * 64, 5)
    assert twice.flops.total == pytest.approx(once.flops.total, rel=1e-6)
    assert 0.4 < twice.memory.logits / once.memory.logits < 0.6


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("training.epochs=2", "give training.steps"),
        ("training.batch_tokens=512", "say what a step holds"),
        ("data.max_length=32", "no data is read"),
        ("data.source=mine.jsonl", "no data is read"),
    ],
)
def test_a_setting_that_a_shape_leaves_no_room_for_is_refused(word, said, monkeypatch, capsys) -> None:
    status, _, err = run(monkeypatch, capsys, "cost", "model=nano-55k", "batch=2", "length=64", word)
    assert (status, err.count("\n")) == (2, 1)
    assert said in err


@pytest.mark.parametrize(("price", "shown"), [(0.0033, "0.0033"), (0.0, "0.00"), (1234.5, "1,234.50")])
def test_small_money_is_no_zero(price: float, shown: str) -> None:
    assert f", {shown} at the price given" in str(Duration(1.0, "here", price))


@pytest.mark.parametrize("words", ["batch=2", "length=64", "batch=0 length=64", "batch=2 length=", "batch=-1 length=8",
                                   "batch=2.5 length=8", "batch=² length=8", "batch=two length=8"])  # fmt: skip
def test_a_shape_is_two_whole_numbers(words: str) -> None:
    with pytest.raises(ConfigError, match=r"(batch|length): one step needs batch=B and length=L"):
        shape_of(words.split())
