"""A few layers that stand for all: the same FLOPs to the last one, the same bytes, as every layer run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_rehearsal_everywhere import SMALL
from torch import nn
from transformers import CONFIG_MAPPING

from isolora.config import RunConfig, parse
from isolora.cost.estimate import with_task
from isolora.cost.flops import rehearse
from isolora.cost.layers import find_layers, shortened
from isolora.cost.memory import peak
from isolora.ledger import BatchShape
from isolora.models import architectures

torch.set_num_threads(1)
DEPTHS = ("num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")
KINDS = {
    "llama": "causal-lm",
    "gemma3_text": "causal-lm",  # five layers with a window, then one without
    "gpt2": "causal-lm",
    "mixtral": "causal-lm",
    "t5": "summarization",
    "bart": "summarization",
    "modernbert": "token-classification",
}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"name": "lora", "rank": 3},
    "some layers": {"name": "lora", "rank": 3, "targets": r".*\.[46]\..*(q_proj|c_attn|Wqkv|\.q)"},
    "last layer": {"name": "selective", "train": "layers", "layers": "last 1"},
    "prompt": {"name": "prompt"},
    "full": {"name": "full"},
}
CELLS = [(kind, "lora") for kind in KINDS] + [("llama", method) for method in METHODS if method != "lora"]


def deep(kind: str, folder: Path, method: dict[str, Any], **training: Any) -> RunConfig:
    known, layers = CONFIG_MAPPING[kind](), 7 if KINDS[kind] == "summarization" else 9  # of an encoder and a decoder both
    own = {name: value for name, value in {**SMALL, **dict.fromkeys(DEPTHS, layers)}.items() if hasattr(known, name)}
    CONFIG_MAPPING[kind](**own).save_pretrained(folder)
    given = {"model": str(folder), "task": KINDS[kind], "method": method, "training": {"steps": 1, **training}}
    return parse(RunConfig, given)


@pytest.mark.parametrize(("kind", "method"), CELLS)
def test_the_same_flops_and_weights(kind: str, method: str, tmp_path: Path) -> None:
    run = deep(kind, tmp_path, METHODS[method])
    few, every = rehearse(run), rehearse(run, whole=True)
    assert np.array_equal(few.coefficients, every.coefficients)
    assert replace(few, coefficients=every.coefficients) == every


@pytest.mark.parametrize(("kind", "method"), CELLS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_same_bytes(kind: str, method: str, checkpointing: bool, tmp_path: Path) -> None:
    run = deep(kind, tmp_path, METHODS[method], gradient_checkpointing=checkpointing)
    shape = BatchShape(2, 16, 30, 16 if KINDS[kind] == "summarization" else 0)
    assert peak(run, shape) == peak(run, shape, whole=True)


class Odd(nn.Module):
    """A layer that does something else by its number."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)


def test_layers_of_other_shapes_are_of_other_kinds() -> None:
    model = nn.Module()
    model.layers = nn.ModuleList([Odd(4), Odd(4), Odd(8), Odd(4), Odd(8)])
    (found,) = find_layers(model.requires_grad_(False))
    assert [found.kinds[number] == found.kinds[1] for number in range(5)] == [True, True, False, True, False]
    with shortened(model, [found], {"layers": [0, 2]}):
        assert [layer.inner.in_features for layer in model.layers] == [4, 8]
    assert len(model.layers) == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", architectures.packaged_architectures())
def test_the_same_flops_of_every_packaged_architecture(name: str) -> None:
    run = with_task(RunConfig(model=name))
    assert np.array_equal(rehearse(run).coefficients, rehearse(run, whole=True).coefficients)
