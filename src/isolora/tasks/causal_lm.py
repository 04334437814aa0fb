"""Causal language modelling: predict every next token of a text."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from isolora.errors import ConfigError, DataError
from isolora.tasks.base import IGNORED, Batch, Examples, Loss, Task, stated_positions
from isolora.tasks.causal import causal_class, causal_loss
from isolora.tasks.pairs import begin, ids_without_special_tokens, special_tokens_around

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from isolora.data import Documents


PROBED = 150
"""Tokens of each of the two documents that tell whether a model keeps them apart: more than the blocks of tokens that some
models sum up (DeepSeek-V4: 128)."""


class CausalLMSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    packing: bool = Field(False, description="several documents in one sequence; none of them sees another")
    stride: int | None = Field(
        None,
        ge=1,
        description="windows over long documents, so many tokens apart, in place of cutting them; each token counts once",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> CausalLMSettings:
        if self.packing and self.stride:
            raise ValueError("packing and stride exclude each other")
        return self


class CausalLM(Task):
    name: ClassVar[str] = "causal-lm"
    predicts_tokens: ClassVar[bool] = True
    Settings: ClassVar[type[BaseModel]] = CausalLMSettings

    def auto_class(self, architecture: PretrainedConfig) -> str:
        found = causal_class(architecture)
        model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(architecture), None)
        if self.settings.packing and model and "position_ids" not in inspect.signature(model.forward).parameters:
            raise ConfigError(f"task.packing: {architecture.model_type} cannot start its positions anew within a sequence")
        return found

    @property
    def packs(self) -> bool:
        return bool(self.settings.packing)

    def check_model(self, model: PreTrainedModel) -> None:
        if self.settings.packing and not keeps_documents_apart(model):
            kind = model.config.model_type
            raise ConfigError(f"task.packing: {kind} lets packed documents see each other; use task.packing=no")

    def examples(self, documents: Documents, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Examples:
        tokens = encode(documents.texts, tokenizer, sys.maxsize if self.settings.stride else max_length)
        if empty := np.flatnonzero(tokens.lengths == 0).tolist():
            raise DataError(f"data: {documents.origin(empty[0])}: the text gives no token with this tokenizer")
        if self.settings.stride:
            return token_windows(tokens, max_length, self.settings.stride)
        examples = next_tokens(tokens)
        return packed(examples, max_length) if self.settings.packing else examples

    def labels_by_document(self, examples: Examples, count: int) -> NDArray[np.int64]:
        """A packed document ends where nothing is predicted."""
        if not self.settings.packing:
            return super().labels_by_document(examples, count)
        return np.diff(np.flatnonzero(examples.labels == IGNORED), prepend=-1) - 1

    def nothing_to_learn(self, max_length: int) -> str:
        found = "data.max_length is 1" if max_length == 1 else "the text gives one token"
        return f"{found}, and it takes two: one to read and one to predict"

    def loss(self, model: PreTrainedModel, batch: Batch) -> Loss:
        return causal_loss(model, batch, packed_positions(batch) if self.settings.packing else None)

    def prompt_ids(self, text: str, tokenizer: PreTrainedTokenizerBase, room: int) -> list[int]:
        return begin(special_tokens_around(tokenizer)[0], ids_without_special_tokens([text], tokenizer)[0])


def encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Examples:
    """Token ids of every text with the end-of-sequence id behind it, cut to `max_length` ids; labels are the ids themselves.

    A text that is cut does not end, and so gets no end-of-sequence id. One that already begins with the text of the
    beginning-of-sequence token, or ends with that of the end, gets no second one.
    """
    end, before = tokenizer.eos_token_id, special_tokens_around(tokenizer)[0]
    encoded = tokenizer(list(texts), return_attention_mask=False, verbose=False)["input_ids"]
    ended = (ids if end is None or ids[-1:] == [end] else [*ids, end] for ids in encoded)
    begun = (ids[len(before) :] if before and ids[len(before) : 2 * len(before)] == before else ids for ids in ended)
    rows = [np.array(ids[:max_length], dtype=np.int32) for ids in begun]
    flat = np.concatenate([np.zeros(0, np.int32), *rows])
    return Examples(flat, flat, np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64))


def next_tokens(tokens: Examples) -> Examples:
    """Each position predicts the token that follows it; the last one predicts nothing."""
    labels = np.roll(tokens.ids, -1)
    labels[tokens.starts[1:] - 1] = IGNORED
    return Examples(tokens.ids, labels, tokens.starts)


def packed(examples: Examples, max_length: int) -> Examples:
    """Neighbouring documents in one example of at most `max_length` tokens; the last token of a document predicts nothing."""
    starts = [0]
    for start, stop in zip(examples.starts[:-1], examples.starts[1:], strict=True):
        if stop - starts[-1] > max_length:
            starts.append(int(start))
    return Examples(examples.ids, examples.labels, np.array([*starts, len(examples.ids)], dtype=np.int64))


def packed_positions(batch: Batch) -> Tensor:
    """Places [rows, length] of tokens within their documents. Where they start again at 0, transformers lets no document
    see another."""
    asked = torch.zeros(batch.input_ids.numel(), dtype=torch.bool, device=batch.input_ids.device)
    asked[batch.positions] = True
    begins = asked.view_as(batch.input_ids).logical_not().roll(1, 1)
    begins[:, 0] = True
    places = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device).expand_as(begins)
    return places - torch.where(begins, places, 0).cummax(1).values


@torch.no_grad()
def keeps_documents_apart(model: PreTrainedModel) -> bool:
    """Whether a second document's states are the same behind another first one. Not every model that takes positions makes its
    mask of them (OPT, XGLM, BioGPT), a state space model (Jamba) carries its state on, and blocks that are summed up as one
    (DeepSeek-V4) are seen by whatever follows."""
    config = model.config.get_text_config()
    entries, bound = min(config.vocab_size, 64), stated_positions(config) or 2 * PROBED
    places = torch.arange(max(1, min(PROBED, bound // 2)), device=next(model.parameters()).device)
    first = (places + torch.tensor([[0], [1]], device=places.device)) % entries
    second = places.mul(7).remainder(entries).expand(2, -1)
    ids, twice = torch.cat([first, second], 1), places.repeat(2).expand(2, -1)
    states = model.base_model(input_ids=ids, position_ids=twice, use_cache=False)[0][:, len(places) :]
    return torch.allclose(states[0].float(), states[1].float(), rtol=1e-2, atol=1e-4)


def token_windows(tokens: Examples, max_length: int, stride: int) -> Examples:
    """Long documents in windows that start `stride` tokens apart, the last one at the document's end; each predicts what no
    window before it has predicted."""
    if stride >= max_length:
        raise ConfigError(
            f"task.stride: {stride} leaves gaps between windows of {max_length} tokens (valid: 1 to {max_length - 1})"
        )
    ids, labels, documents = [], [], []
    for number, length in enumerate(tokens.lengths):
        row = tokens.ids[tokens.starts[number] : tokens.starts[number + 1]]
        last = max(0, int(length) - max_length)
        known = 1  # the first token of a document is given
        for start in [*range(0, last, stride), last]:
            ids.append(row[start : start + max_length])
            labels.append(np.full(len(ids[-1]), IGNORED, dtype=np.int32))
            labels[-1][known - start - 1 : -1] = ids[-1][known - start :]
            known = start + len(ids[-1])
            documents.append(number)
    starts = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
    return Examples(np.concatenate(ids), np.concatenate(labels), starts, documents=np.array(documents))


task = CausalLM()
