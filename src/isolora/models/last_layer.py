"""The last layer of a decoder at labelled positions alone.

Behind its attention nothing of a position reaches another one, so that states of positions without a label have no part in the
loss: their norm and feed-forward are left out, exactly. A layer is replaced where its code is the one written in transformers'
LLaMA, which many models share.
"""

from __future__ import annotations

from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from isolora.json_types import JsonObject
from isolora.methods.low_rank import tokens_of
from isolora.models.fused import same_code
from isolora.tasks.base import Batch
from isolora.tasks.causal import NARROWS, at_labels

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def narrow_last_layer(model: PreTrainedModel) -> None:
    """Let the model take a batch as `labelled=`: its states are then those of labelled positions, [1, labels, width]."""
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers) or not _is_like_llama(layers[-1]):
        return
    layers[-1].forward = MethodType(_last_layer, layers[-1])
    setattr(model, NARROWS, True)


def _is_like_llama(layer: nn.Module) -> bool:
    own = getattr(type(layer).forward, "__wrapped__", None)  # beneath what checkpoints
    if not isinstance(own, FunctionType) or "post_attention_layernorm" not in own.__code__.co_names or "forward" in vars(layer):
        return False
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    return same_code(own, LlamaDecoderLayer.forward.__wrapped__)


def _last_layer(layer: Any, hidden_states: Tensor, *given: Any, labelled: Batch | None = None, **named: Any) -> Tensor:
    """As the layer's class does it, recomputation in the backward pass included."""
    if labelled is None:
        plain: Tensor = type(layer).forward(layer, hidden_states, *given, **named)
        return plain
    narrowed = partial(_narrowed, layer, labelled, named)
    recomputes = layer.gradient_checkpointing and layer.training
    found: Tensor = layer._gradient_checkpointing_func(narrowed, hidden_states) if recomputes else narrowed(hidden_states)
    return found


def _narrowed(layer: Any, labelled: Batch, named: JsonObject, states: Tensor) -> Tensor:
    attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(states), **named)
    asked = at_labels(states + attended, labelled)[None]
    with tokens_of(labelled.target_rows):
        found: Tensor = asked + layer.mlp(layer.post_attention_layernorm(asked))
    return found
