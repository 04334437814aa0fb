"""Decoders: each position predicts the token that follows it; logits are computed at labelled positions alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from isolora.errors import ConfigError
from isolora.json_types import JsonObject
from isolora.tasks.base import Batch, Loss
from isolora.tasks.cross_entropy import from_logits, frozen_head

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def causal_class(architecture: PretrainedConfig) -> str:
    """The class that loads a decoder. Raises ConfigError for a model that sees the tokens it should predict."""
    encoder = is_encoder(architecture)
    if architecture.is_encoder_decoder or encoder:
        kind = "an encoder-decoder" if architecture.is_encoder_decoder else "an encoder"
        raise ConfigError(f"model: {architecture.model_type} is {kind}; this task needs a decoder such as llama or gpt2")
    return "AutoModelForCausalLM"


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


def plain_head(model: Any) -> bool:
    """Whether logits are exactly hidden · Wᵀ with W frozen: no bias, no adapter, no scaling or capping in the configuration."""
    from transformers import PreTrainedModel  # takes a second to import: whoever only reads data needs no model class

    if not isinstance(model, PreTrainedModel):  # PEFT's wrapper puts virtual tokens in front on its own
        return False
    head = model.get_output_embeddings()
    scaled = any(getattr(model.config, key, None) for key in ("final_logit_softcapping", "logits_scaling", "logit_scale"))
    return isinstance(head, nn.Linear) and head.bias is None and not head.weight.requires_grad and not scaled
