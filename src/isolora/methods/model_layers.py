"""Where things are in a transformer: its stacks of repeated layers, and what in a layer writes to the residual stream."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import nn
from transformers.pytorch_utils import Conv1D

from isolora.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)


def layer_stacks(model: PreTrainedModel) -> list[list[str]]:
    """Full names of the repeated layers, in order; an encoder-decoder has two stacks. Raises ConfigError where there are none."""
    stacks: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{stack}.") for stack in stacks)
        if isinstance(module, nn.ModuleList) and not inside and any(attention_names(layer) for layer in module):
            stacks[name] = [f"{name}.{number}" for number in range(len(module))]
    if not stacks:
        raise ConfigError(f"method: {type(model).__name__} has no repeated layers with attention")
    return list(stacks.values())


def attention_names(layer: nn.Module) -> list[str]:
    """The layer's attention modules, self-attention first; what they consist of is not listed again."""
    found: list[str] = []
    for name, module in layer.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if ATTENTION.search(name.rpartition(".")[2]) and not inside and linear_names(module):
            found.append(name)
    return found


def linear_names(module: nn.Module) -> list[str]:
    return [name for name, inner in module.named_modules() if isinstance(inner, nn.Linear | Conv1D)]


def attention_outputs(layer: nn.Module) -> list[str]:
    """The last linear layer of each attention module: every architecture here registers its output projection last."""
    return [f"{name}.{linear_names(layer.get_submodule(name))[-1]}" for name in attention_names(layer)]


def feed_forward_output(layer: nn.Module) -> str:
    """The last linear layer outside attention; with experts, the whole block, whose output is their mixture."""
    names = [name for name, _ in layer.named_modules()]
    if block := next((name.rpartition(".")[0] for name in names if name.endswith("experts")), ""):
        return block
    attention = tuple(f"{name}." for name in attention_names(layer))
    outside = [name for name in linear_names(layer) if not name.startswith(attention)]
    if not outside:
        raise ConfigError(f"method: {type(layer).__name__} has no feed-forward layer outside its attention")
    return outside[-1]
