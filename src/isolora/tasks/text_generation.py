"""Batched generation from many prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from isolora.tasks.base import padding_id, stated_positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROWS = 16
"""Prompts in one batch: a decoder keeps keys and values of all of them, times the beams."""


@torch.no_grad()
def generate_texts(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    num_beams: int = 1,
) -> list[str]:
    """What follows each prompt (a decoder's own beginning, or an encoder's input), greedily or by beams, without the prompt.

    At most `max_new_tokens`, and no more than the model has positions for.
    """
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    texts = [""] * len(prompts)
    for start in range(0, len(order), ROWS):
        chosen = order[start : start + ROWS]
        made = _batch(model, [prompts[number] for number in chosen], tokenizer, max_new_tokens, num_beams)
        for number, text in zip(chosen, tokenizer.batch_decode(made, skip_special_tokens=True), strict=True):
            texts[number] = text.strip()
    return texts


def _batch(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    num_beams: int,
) -> Any:
    device, encoder = next(model.parameters()).device, model.config.is_encoder_decoder
    longest, pad = max(map(len, prompts)), padding_id(tokenizer, model)
    ids = torch.full((len(prompts), longest), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        # a decoder goes on from its last position, so its padding stands in front
        place = slice(0, len(prompt)) if encoder else slice(longest - len(prompt), longest)
        ids[row, place], mask[row, place] = torch.tensor(prompt), 1
    ends = {} if tokenizer.eos_token_id is None else {"eos_token_id": tokenizer.eos_token_id}
    bound = stated_positions(model.config.get_text_config())
    left = max_new_tokens if bound is None else bound - (1 if encoder else longest)
    made = model.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        max_new_tokens=min(max_new_tokens, left),
        num_beams=num_beams,
        do_sample=False,
        pad_token_id=pad,
        **ends,
    )
    return made[:, 1 if encoder else longest :]
