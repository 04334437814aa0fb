"""Layers that are recomputed in the backward pass, without the dropout of the base.

transformers recomputes the layers that are in training, and such layers drop out by the same flag (OPT, BART, T5, XGLM): from
the global generator, so that a run would not be the one of its seed, and members of a stack would share draws.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from isolora.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def enable_recomputation(model: PreTrainedModel) -> None:
    """Raises ConfigError where transformers recomputes nothing of this architecture."""
    if not model.supports_gradient_checkpointing:
        raise ConfigError(f"training.gradient_checkpointing: {type(model).__name__} does not support it (valid here: no)")
    model.activation_checkpointing_enable()


def recompute_layers(model: nn.Module, on: bool) -> None:
    """Recompute activations, or no longer, wherever it is enabled."""
    from transformers.modeling_layers import GradientCheckpointingLayer  # imports scipy, which a price does without

    of_layers = any(isinstance(module, GradientCheckpointingLayer) for module in model.modules())
    for module in model.modules():
        if not getattr(module, "gradient_checkpointing", False):
            continue
        if isinstance(module, GradientCheckpointingLayer):
            module.training = on
            known = module._gradient_checkpointing_func
            if not isinstance(known, _WithoutDropout):
                module._gradient_checkpointing_func = _WithoutDropout(module, known)
        elif not of_layers:
            module.training = on  # code from before there were such layers


class _WithoutDropout:
    """transformers' function that recomputes, with the layer out of training while it is computed, both times."""

    def __init__(self, layer: nn.Module, recomputed: Callable[..., Any]) -> None:
        self.layer, self.recomputed = layer, recomputed

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.recomputed(partial(self._computed, function), *args)

    def _computed(self, function: Callable[..., Any], *args: Any) -> Any:
        before, self.layer.training = self.layer.training, False
        try:
            return function(*args)
        finally:
            self.layer.training = before
