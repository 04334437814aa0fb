"""Decoders: each position predicts the token that follows it; logits are computed at labelled positions alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from isolora.errors import ConfigError
from isolora.json_types import JsonObject
from isolora.tasks.base import Batch, Loss, Task, stated_positions
from isolora.tasks.cross_entropy import from_logits, frozen_head

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

NARROWS = "gives_labelled_states"
"""Name of a model's attribute: whether it takes a batch as `labelled=` and gives the states [1, labels, width] there alone."""
DECODER = "AutoModelForCausalLM"
PROBED_TOKENS = 16
BEHIND_THE_HEAD = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_mup_width_multiplier",
    "logits_scaling",
    "logits_soft_cap",
    "lm_head_multiplier",
    "output_logit_soft_cap",
    "output_multiplier",
    "softcap",
)
"""Settings of transformers' decoders that change logits before or behind the head. `check_causal` finds those of another name."""


def causal_class(architecture: PretrainedConfig) -> str:
    """The class that loads a decoder. Raises ConfigError for a model that sees the tokens it should predict."""
    encoder = is_encoder(architecture)
    if architecture.is_encoder_decoder or encoder:
        kind = "an encoder-decoder" if architecture.is_encoder_decoder else "an encoder"
        raise ConfigError(f"model: {architecture.model_type} is {kind}; this task needs a decoder such as llama or gpt2")
    return DECODER


def check_causal(task: Task, model: PreTrainedModel) -> None:
    """Raises ConfigError where the task takes a decoder and this one sees the tokens that it has to predict, so that its loss
    would be that of copying them; and where its logits are not what its head makes of its states, though nothing says so."""
    if task.auto_class(model.config) != DECODER:
        return
    kind = model.config.model_type
    if sees_what_follows(model):
        raise ConfigError(
            f"model: {kind} lets a token see those that follow it, which this task has to predict; a decoder"
            " such as llama or gpt2 does not (some configurations become one by is_decoder: true)"
        )
    if not gives_what_its_head_makes(model):
        raise ConfigError(f"model: {kind} changes its logits in a way that isolora does not know, so their loss would be wrong")


@torch.no_grad()
def sees_what_follows(model: PreTrainedModel) -> bool:
    """Whether the states of tokens change with the one behind them. transformers loads some bidirectional models as decoders:
    BertGeneration without `is_decoder`, CPM-Ant."""
    row = _probe(model)
    ids = torch.cat([row, torch.cat([row[:, :-1], (row[:, -1:] + 1) % len(model.get_input_embeddings().weight)], dim=1)])
    with _evaluated(model):
        states = model.base_model(input_ids=ids, use_cache=False)[0][:, :-1].float()
    return not _alike(states[0], states[1], model)


@torch.no_grad()
def gives_what_its_head_makes(model: PreTrainedModel) -> bool:
    """Whether logits are those of a plain head, where the configuration lets one believe so."""
    if not _head_is_plain(model):
        return True
    ids = _probe(model)
    with _evaluated(model):
        logits = model(input_ids=ids, use_cache=False).logits.float()
        head = model.get_output_embeddings()
        found = head(model.base_model(input_ids=ids, use_cache=False)[0].to(head.weight.dtype)).float()
    return _alike(logits, found, model)


def _probe(model: PreTrainedModel) -> Tensor:
    """One row of tokens [1, length], where the model is."""
    weight, stated = model.get_input_embeddings().weight, stated_positions(model.config.get_text_config())
    return (torch.arange(3, 3 + min(PROBED_TOKENS, stated or PROBED_TOKENS), device=weight.device) % len(weight))[None]


@contextmanager
def _evaluated(model: PreTrainedModel) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _alike(a: Tensor, b: Tensor, model: PreTrainedModel) -> bool:
    """Whether rounding explains what two results differ by."""
    near = 1e-4 if model.get_input_embeddings().weight.dtype == torch.float32 else 1e-2
    return torch.allclose(a, b, rtol=near, atol=near, equal_nan=True)


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
    return at_labels(model(**_inputs(batch, position_ids)).logits, batch)


def _hidden(model: Any, batch: Batch, position_ids: Tensor | None) -> Tensor:
    if not getattr(model, NARROWS, False):
        return at_labels(model.base_model(**_inputs(batch, position_ids))[0], batch)
    states: Tensor = model.base_model(**_inputs(batch, position_ids), labelled=batch)[0]
    return states[0]


def _inputs(batch: Batch, position_ids: Tensor | None) -> JsonObject:
    places = {} if position_ids is None else {"position_ids": position_ids}
    return {"input_ids": batch.input_ids, "use_cache": False, **places}


def at_labels(states: Tensor, batch: Batch) -> Tensor:
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
    return _head_is_plain(model) and not model.get_output_embeddings().weight.requires_grad


def _head_is_plain(model: PreTrainedModel) -> bool:
    """The same of a head whose weight may be trained. A model without a body of its own is asked as a whole."""
    head, configs = model.get_output_embeddings(), (model.config, model.config.get_text_config())
    changed = any(getattr(config, key, None) for config in configs for key in BEHIND_THE_HEAD)
    return isinstance(head, nn.Linear) and head.bias is None and not changed and model.base_model is not model
