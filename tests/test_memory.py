"""Rehearsed memory against the allocator's own records, and against sums worked by hand."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from isolora import models
from isolora.config import RunConfig, parse
from isolora.cost.estimate import typical
from isolora.cost.flops import TWO_CLASSES
from isolora.cost.memory import peak
from isolora.cost.run_price import Memory
from isolora.errors import ConfigError
from isolora.ledger import BatchShape

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
from bench_memory import measured

torch.set_num_threads(1)
WIDE: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 64, "intermediate_size": 160},
    "gpt2": {"n_embd": 64},
    "bert_classifier": {"hidden_size": 64, "intermediate_size": 128},
}
LAYERS = [(64, 64), (64, 32), (64, 32), (64, 64), (64, 160), (64, 160), (160, 64)]
"""(inputs, outputs) of a LLaMA block's linear layers."""
PAIRS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "llama lora": ("llama", "causal-lm", {"name": "lora"}, {}),
    "llama lora checkpointed": ("llama", "causal-lm", {"name": "lora"}, {"gradient_checkpointing": True}),
    "llama last layer": ("llama", "causal-lm", {"name": "selective", "train": "layers", "layers": "last 1"}, {}),
    "llama full": ("llama", "causal-lm", {"name": "full"}, {}),
    "llama prompt bfloat16": ("llama", "causal-lm", {"name": "prompt"}, {"precision": "bfloat16"}),
    "gpt2 dropout": ("gpt2", "causal-lm", {"name": "lora", "dropout": 0.1}, {}),
    "bert lora": ("bert_classifier", "sequence-classification", {"name": "lora"}, {}),
}


def a_run(folder: Path, kind: str, task: str, method: dict[str, Any], training: dict[str, Any]) -> RunConfig:
    tiny.MODELS[kind](**WIDE[kind]).config.save_pretrained(folder)
    given = {"model": str(folder), "task": task, "method": method, "training": {"steps": 1, **training}}
    return parse(RunConfig, given)


@pytest.mark.parametrize("pair", PAIRS)
def test_equals_the_allocators_records(pair: str, tmp_path: Path) -> None:
    config = a_run(tmp_path, *PAIRS[pair])
    shape = typical(models.bound_task(config, TWO_CLASSES), 6, 48)
    assert peak(config, shape).total == pytest.approx(measured(config, shape), rel=0.05)


def test_garbage_of_earlier_work_is_no_part_of_the_records(tmp_path: Path) -> None:
    config = a_run(tmp_path, *PAIRS["llama lora"])
    shape = typical(models.bound_task(config, TWO_CLASSES), 6, 48)
    gc.collect()
    expected, circle = measured(config, shape), [torch.zeros(200_000)]
    circle.append(circle)
    del circle  # 800 kB that Python finds only when it next looks for circles
    assert measured(config, shape) == expected


def test_what_training_holds_by_hand(tmp_path: Path) -> None:
    """LoRA of rank 8 on 7 linear layers in each of 2 blocks: float32, one gradient, two moments, one average, a step count."""
    config = a_run(tmp_path, *PAIRS["llama lora"])
    trained = 2 * sum(8 * (inputs + outputs) for inputs, outputs in LAYERS)
    memory = peak(config, BatchShape(2, 16, 30))
    assert (memory.adapter, memory.gradients, memory.average) == (4 * trained,) * 3
    assert memory.optimiser == 8 * trained + 4
    frozen = 2 * (sum(inputs * outputs for inputs, outputs in LAYERS) + 2 * 64) + 64 + 2 * tiny.VOCABULARY * 64
    assert memory.weights == pytest.approx(4 * frozen, rel=0.001)  # and the rotary embedding's frequencies


def test_logits_of_labelled_positions_alone() -> None:
    config = parse(RunConfig, {"model": "nano-55k", "training": {"steps": 1}})
    assert peak(config, BatchShape(1, 128, 127)).logits == 4 * 127 * 4096


def test_checkpointing_keeps_less_and_quantising_stores_less(tmp_path: Path) -> None:
    plain, checkpointed = (peak(a_run(tmp_path, *PAIRS[name]), BatchShape(8, 48, 376)) for name in list(PAIRS)[:2])
    assert checkpointed.activations < 0.7 * plain.activations
    assert checkpointed.weights == plain.weights
    quantised = peak(a_run(tmp_path, "llama", "causal-lm", {"name": "qlora", "quantisation": "nf4"}, {}), BatchShape(8, 48, 96))
    weights = 2 * sum(inputs * outputs for inputs, outputs in LAYERS)
    stored = weights / 2 + 4 * weights / 64 + 2 * len(LAYERS) * 16 * 4  # halves of bytes, a scale for 64, a table for each layer
    assert plain.weights - quantised.weights == 4 * weights - stored


def test_nothing_of_the_models_size_is_allocated() -> None:
    config = parse(RunConfig, {"model": "mistralai/Mixtral-8x7B-Instruct-v0.1", "training": {"steps": 1}})
    memory = peak(config, BatchShape(1, 64, 63))
    assert memory.weights == pytest.approx(4 * 46.7e9, rel=0.001)
    assert memory.total > memory.weights


def test_parts_add_up() -> None:
    assert Memory(1, 2, 4, 8, 16, 32, 64).total == 127


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what is there")
def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device: this PyTorch sees no cuda"):
        peak(a_run(tmp_path, *PAIRS["llama lora"]), BatchShape(1, 8, 7), device="cuda")
