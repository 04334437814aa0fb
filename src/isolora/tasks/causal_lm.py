"""Causal language modelling: predict every next token of a text."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from torch import nn

from isolora.cross_entropy import from_logits, frozen_head
from isolora.tasks._base import IGNORED, Batch, Examples, Loss, Task


class CausalLM(Task):
    name: ClassVar[str] = "causal-lm"
    auto_class: ClassVar[str] = "AutoModelForCausalLM"

    def examples(self, tokens: Examples) -> Examples:
        """Each position predicts the token that follows it; the last one predicts nothing."""
        labels = np.roll(tokens.ids, -1)
        labels[tokens.starts[1:] - 1] = IGNORED
        return Examples(tokens.ids, labels, tokens.starts)

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Logits at labelled positions only. Padding is on the right, where causal attention never looks: no mask is needed."""
        weights = batch.row_weights[batch.target_rows]
        if plain_head(model):
            hidden = model.base_model(input_ids=batch.input_ids, use_cache=False)[0]
            rows = hidden.flatten(0, 1).index_select(0, batch.positions)
            objective, losses = frozen_head(rows, model.get_output_embeddings().weight, batch.targets, weights)
        else:
            logits = model(input_ids=batch.input_ids, use_cache=False).logits
            objective, losses = from_logits(logits.flatten(0, 1).index_select(0, batch.positions), batch.targets, weights)
        return Loss.of(objective, losses, batch)


def plain_head(model: Any) -> bool:
    """Whether logits are exactly hidden · Wᵀ with W frozen: no bias, no adapter, no scaling or capping in the configuration."""
    head = model.get_output_embeddings()
    scaled = any(getattr(model.config, key, None) for key in ("final_logit_softcapping", "logits_scaling", "logit_scale"))
    return isinstance(head, nn.Linear) and head.bias is None and not head.weight.requires_grad and not scaled


task = CausalLM()
