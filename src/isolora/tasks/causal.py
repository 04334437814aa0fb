"""Decoders: each position predicts the token that follows it; logits are computed at labelled positions alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from isolora.errors import ConfigError
from isolora.json_types import JsonObject
from isolora.tasks.base import Batch, Loss, Task, stated_positions
from isolora.tasks.cross_entropy import from_logits, frozen_head

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

DECODER = "AutoModelForCausalLM"
PROBED_TOKENS = 16


def causal_class(architecture: PretrainedConfig) -> str:
    """The class that loads a decoder. Raises ConfigError for a model that sees the tokens it should predict."""
    encoder = is_encoder(architecture)
    if architecture.is_encoder_decoder or encoder:
        kind = "an encoder-decoder" if architecture.is_encoder_decoder else "an encoder"
        raise ConfigError(f"model: {architecture.model_type} is {kind}; this task needs a decoder such as llama or gpt2")
    return DECODER


def check_causal(task: Task, model: PreTrainedModel) -> None:
    """Raises ConfigError where the task takes a decoder and this one sees the tokens that it has to predict: its loss would be
    that of copying them."""
    if task.auto_class(model.config) == DECODER and sees_what_follows(model):
        raise ConfigError(
            f"model: {model.config.model_type} lets a token see those that follow it, which this task has to predict; a decoder"
            " such as llama or gpt2 does not (some configurations become one by is_decoder: true)"
        )


@torch.no_grad()
def sees_what_follows(model: PreTrainedModel) -> bool:
    """Whether the states of tokens change with the one behind them. transformers loads some bidirectional models as decoders:
    BertGeneration without `is_decoder`, CPM-Ant."""
    text, weight = model.config.get_text_config(), model.get_input_embeddings().weight
    length, was_training = min(PROBED_TOKENS, stated_positions(text) or PROBED_TOKENS), model.training
    row = torch.arange(3, 3 + length, device=weight.device) % len(weight)
    ids = torch.stack([row, torch.cat([row[:-1], (row[-1:] + 1) % len(weight)])])
    model.eval()
    states = model.base_model(input_ids=ids, use_cache=False)[0][:, :-1].float()
    model.train(was_training)
    near = 1e-4 if weight.dtype == torch.float32 else 1e-2
    return not torch.allclose(states[0], states[1], rtol=near, atol=near)


def causal_loss(model: Any, batch: Batch, position_ids: Tensor | None = None) -> Loss:
    """Logits at labelled positions only. Padding is on the right, where causal attention does not look, so no mask is needed."""
    weights = batch.row_weights[batch.target_rows]
    if plain_head(model):
        hidden = _hidden(model, batch, position_ids)
        objective, losses = frozen_head(hidden, model.get_output_embeddings().weight, batch.targets, weights)
    else:
        objective, losses = from_logits(causal_logits(model, batch, position_ids), batch.targets, weights)
    return Loss.of(objective, losses, batch)


def causal_logits(model: Any, batch: Batch, position_ids: Tensor | None = None) -> Tensor:
    """Logits [labels, entries] at labelled positions."""
    if plain_head(model):
        logits: Tensor = model.get_output_embeddings()(_hidden(model, batch, position_ids))
        return logits
    return _at_labels(model(**_inputs(batch, position_ids)).logits, batch)


def _hidden(model: Any, batch: Batch, position_ids: Tensor | None) -> Tensor:
    return _at_labels(model.base_model(**_inputs(batch, position_ids))[0], batch)


def _inputs(batch: Batch, position_ids: Tensor | None) -> JsonObject:
    places = {} if position_ids is None else {"position_ids": position_ids}
    return {"input_ids": batch.input_ids, "use_cache": False, **places}


def _at_labels(states: Tensor, batch: Batch) -> Tensor:
    """States [rows, length, width] at labelled positions; virtual tokens in front of a row have no labels."""
    return states[:, -batch.input_ids.shape[1] :].flatten(0, 1).index_select(0, batch.positions)


def is_encoder(architecture: PretrainedConfig) -> bool:
    """Whether a model sees the tokens that a decoder would have to predict; an encoder-decoder may count as one."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    return type(architecture) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(architecture, "is_decoder", False)


def plain_head(model: object) -> bool:
    """Whether logits are exactly hidden · Wᵀ with W frozen: no bias, no adapter, no scaling or capping in the configuration."""
    from transformers import PreTrainedModel  # takes a second to import: whoever only reads data needs no model class

    if not isinstance(model, PreTrainedModel):  # PEFT's wrapper puts virtual tokens in front on its own
        return False
    head = model.get_output_embeddings()
    scaled = any(getattr(model.config, key, None) for key in ("final_logit_softcapping", "logits_scaling", "logit_scale"))
    return isinstance(head, nn.Linear) and head.bias is None and not head.weight.requires_grad and not scaled
