"""The ledger against torch's FLOP counter, every architecture with every method, over real steps on the CPU."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CONFIG_MAPPING

from isolora import models, registry
from isolora.config import RunConfig, parse
from isolora.cost.flops import attach_for_rehearsal, rehearse, task_batch
from isolora.errors import ConfigError
from isolora.ledger import BatchShape
from isolora.methods.base import Attached
from isolora.tasks.base import Batch

torch.set_num_threads(1)
WIDE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**WIDE, "num_key_value_heads": 2, "max_position_embeddings": 64}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
PAIRED = {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("token-classification", {**WIDE, "max_position_embeddings": 64}),
    "roberta": ("token-classification", {**WIDE, "max_position_embeddings": 66}),
    "distilbert": (
        "token-classification",
        {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64},
    ),
    "gpt2": ("causal-lm", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "llama": ("causal-lm", GROUPED),
    "mistral": ("causal-lm", GROUPED),
    "mixtral": ("causal-lm", {**GROUPED, **EXPERTS}),
    "qwen2": ("causal-lm", GROUPED),
    "qwen3": ("causal-lm", {**GROUPED, "head_dim": 8}),
    "qwen3_moe": ("causal-lm", {**GROUPED, **EXPERTS, "head_dim": 8}),
    "gemma2": ("causal-lm", {**GROUPED, "head_dim": 8}),
    "gemma3_text": ("causal-lm", {**GROUPED, "head_dim": 8}),
    "gpt_neox": ("causal-lm", {**WIDE, "max_position_embeddings": 64}),
    "bloom": ("causal-lm", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "bart": ("summarization", {**tiny.BART, "d_model": 32}),
    "t5": ("summarization", {**PAIRED, "decoder_start_token_id": 0}),
}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"name": "lora", "rank": 3},
    "qlora": {"name": "qlora", "rank": 3},
    "adalora": {"name": "adalora"},
    "prefix": {"name": "prefix"},
    "p-tuning": {"name": "p-tuning"},
    "prompt": {"name": "prompt"},
    "biases": {"name": "selective", "train": "biases"},
    "norms": {"name": "selective", "train": "norms"},
    "last layer": {"name": "selective", "train": "layers", "layers": "1"},
    "bottleneck": {"name": "bottleneck"},
    "full": {"name": "full"},
}
WITHOUT_BIASES = ("llama", "mistral", "mixtral", "qwen3", "qwen3_moe", "gemma2", "gemma3_text", "t5")
UNDEFINED = {
    **{(architecture, "biases"): "nothing matches 'biases'" for architecture in WITHOUT_BIASES},
    ("distilbert", "prefix"): "takes past_key_values",
}
"""Where a method is not defined, and what the person is told."""
SHAPES = ((3, 11, 7), (2, 29, 19))
"""(rows, length, length of a second sequence); none of the lengths is rehearsed."""


def a_run(folder: Path, architecture: str, method: str) -> RunConfig:
    task, sizes = ARCHITECTURES[architecture]
    configuration = CONFIG_MAPPING[architecture](**{"vocab_size": tiny.VOCABULARY, "pad_token_id": 0, **sizes})
    given = {"model": str(folder), "task": task, "method": METHODS[method]}
    run = parse(RunConfig, given)
    configuration.save_pretrained(folder)
    auto_class = getattr(transformers, models.bound_task(run, ("0", "1")).auto_class(configuration))
    torch.manual_seed(0)
    tiny.save(folder, auto_class.from_config(configuration))
    return run


def shapes(task: Any) -> list[BatchShape]:
    every = [(rows, length, other if task.second else 0) for rows, length, other in SHAPES]
    return [BatchShape(rows, length, rows * (task.labels_per_row or length - 1), other) for rows, length, other in every]


def filled(batch: Batch) -> Batch:
    """The batch with entries drawn at random."""
    second = None if batch.second is None else filled(batch.second)
    return replace(batch, input_ids=torch.randint(2, tiny.VOCABULARY, batch.input_ids.shape), second=second)


def counted(run: RunConfig, among: list[BatchShape]) -> list[int]:
    """FLOPs of a real forward and backward pass on the CPU for each shape, attention done in plain products."""
    task = models.bound_task(run, ("0", "1"))
    model = models.load_base(run, task).model
    if model._can_set_experts_implementation():
        model.set_experts_implementation("eager")
    attached = attach_for_rehearsal(run, task, model)
    return [counted_step(task, attached, shape) for shape in among]


def counted_step(task: Any, attached: Attached, shape: BatchShape) -> int:
    counter = FlopCounterMode(display=False, custom_mapping=unknown_to_torch())
    with sdpa_kernel(SDPBackend.MATH), counter, attached.rows([(0, 0, -1)]):
        loss = task.loss(attached.model, filled(task_batch(task, shape, "cpu"))).objective
        extra = attached.extra_loss()
        (loss if extra is None else loss + extra).backward()
    return counter.get_total_flops()


def unknown_to_torch() -> dict[Any, Any]:
    """Products that torch's counter does not know: addmm in place, and bitsandbytes' own over a weight [out, in]."""
    import bitsandbytes  # noqa: F401  its import brings the operators

    return {
        torch.ops.aten.addmm_: lambda _, a, b, **more: 2 * a[0] * a[1] * b[1],
        torch.ops.bitsandbytes.gemm_4bit: lambda x, packed, weight, *_, **more: 2 * math.prod(x) * weight[0],
    }


@pytest.mark.parametrize(("architecture", "method"), [cell for cell in product(ARCHITECTURES, METHODS) if cell not in UNDEFINED])
def test_a_step_costs_what_was_said(architecture: str, method: str, tmp_path: Path) -> None:
    run = a_run(tmp_path, architecture, method)
    price = rehearse(run)
    among = shapes(models.bound_task(run))
    assert [price.flops(shape).total for shape in among] == pytest.approx(counted(run, among), rel=1e-6)


@pytest.mark.parametrize(("architecture", "method"), UNDEFINED)
def test_what_is_not_defined_is_said(architecture: str, method: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=UNDEFINED[architecture, method]):
        rehearse(a_run(tmp_path, architecture, method))


def test_every_method_is_in_the_matrix() -> None:
    assert {given["name"] for given in METHODS.values()} >= set(registry.names("method")) - {"peft", "llama-adapter"}
