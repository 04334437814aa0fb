"""Models with a head made for the task: which class loads them, and what they are given."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor

from isolora.errors import ConfigError
from isolora.tasks.base import Batch


def head_class(kind: str, architecture: Any) -> str:
    """The auto class of a kind of head, such as TokenClassification. Raises ConfigError where the architecture has none."""
    name = f"AutoModelFor{kind}"
    known = type(architecture) in getattr(transformers, name)._model_mapping
    if known or name in (getattr(architecture, "auto_map", None) or {}):
        return name
    raise ConfigError(f"model: transformers has no {kind} head for {architecture.model_type}")


def inputs(batch: Batch) -> dict[str, Tensor]:
    """What the model's forward is given; `values` [rows, 1], where there are any, is where a pair's second text begins."""
    given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if batch.values is not None:
        places = torch.arange(batch.input_ids.shape[1], device=batch.values.device)
        given["token_type_ids"] = ((places >= batch.values) & (given["attention_mask"] == 1)).long()
    return given


def joined(tokenizer: Any, texts: list[str]) -> list[str]:
    """First texts of pairs, with the end of a line behind each where the tokenizer puts nothing between two texts."""
    return texts if None in tokenizer("a", "b").sequence_ids()[1:-1] else [f"{text}\n" for text in texts]
