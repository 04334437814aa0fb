"""Causal language modelling: predict every next token of a text."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from isolora.cross_entropy import from_logits, frozen_head
from isolora.tasks._base import IGNORED, Batch, Examples, Loss, Task
from isolora.tasks._text import encode


class CausalLM(Task):
    name: ClassVar[str] = "causal-lm"

    def auto_class(self, architecture: Any) -> str:
        return "AutoModelForCausalLM"

    def examples(self, documents: Any, tokenizer: Any, max_length: int) -> Examples:
        return next_tokens(encode(documents.texts, tokenizer, max_length))

    def loss(self, model: Any, batch: Batch) -> Loss:
        return causal_loss(model, batch)


def next_tokens(tokens: Examples) -> Examples:
    """Each position predicts the token that follows it; the last one predicts nothing."""
    labels = np.roll(tokens.ids, -1)
    labels[tokens.starts[1:] - 1] = IGNORED
    return Examples(tokens.ids, labels, tokens.starts)


def causal_loss(model: Any, batch: Batch) -> Loss:
    """Logits at labelled positions only. Padding is on the right, where causal attention never looks: no mask is needed."""
    weights = batch.row_weights[batch.target_rows]
    if plain_head(model):
        hidden = model.base_model(input_ids=batch.input_ids, use_cache=False)[0]
        rows = hidden.flatten(0, 1).index_select(0, batch.positions)
        objective, losses = frozen_head(rows, model.get_output_embeddings().weight, batch.targets, weights)
    else:
        logits = model(input_ids=batch.input_ids, use_cache=False).logits
        logits = logits[:, -batch.input_ids.shape[1] :]  # virtual tokens in front predict nothing that is asked
        objective, losses = from_logits(logits.flatten(0, 1).index_select(0, batch.positions), batch.targets, weights)
    return Loss.of(objective, losses, batch)


def plain_head(model: Any) -> bool:
    """Whether logits are exactly hidden · Wᵀ with W frozen: no bias, no adapter, no scaling or capping in the configuration."""
    if not isinstance(model, PreTrainedModel):  # PEFT's wrapper puts virtual tokens in front on its own
        return False
    head = model.get_output_embeddings()
    scaled = any(getattr(model.config, key, None) for key in ("final_logit_softcapping", "logits_scaling", "logit_scale"))
    return isinstance(head, nn.Linear) and head.bias is None and not head.weight.requires_grad and not scaled


task = CausalLM()
