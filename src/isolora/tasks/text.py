"""Texts as token ids with the tokenizer's end behind them: what every task on plain text starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from isolora.errors import DataError
from isolora.tasks.base import Examples


def encode(texts: Sequence[str], tokenizer: Any, max_length: int) -> Examples:
    """Token ids of every text with the end-of-sequence id behind it, cut to `max_length` ids; labels are the ids themselves.

    A text that is cut does not end, and so gets no end-of-sequence id.
    """
    end = tokenizer.eos_token_id
    encoded = tokenizer(list(texts), return_attention_mask=False, verbose=False)["input_ids"]
    ended = (ids if end is None or ids[-1:] == [end] else [*ids, end] for ids in encoded)
    rows = [np.array(ids[:max_length], dtype=np.int32) for ids in ended]
    if not all(len(row) for row in rows):
        raise DataError("data: a document gives no token at all with this tokenizer")
    flat = np.concatenate(rows)
    return Examples(flat, flat, np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64))
