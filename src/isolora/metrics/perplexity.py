"""A language model's loss as perplexity, and as bits per byte, which can be compared across tokenizers."""

from __future__ import annotations

import math
import sys

MAX_EXPONENT = math.log(sys.float_info.max)


def perplexity(loss: float) -> float:
    """exp of a loss in nats per token; infinite where a float cannot hold it."""
    return math.inf if loss > MAX_EXPONENT else math.exp(loss)


def bits_per_byte(loss: float, tokens: int, utf8_bytes: int) -> float:
    """Bits per byte of text in UTF-8, from a mean loss in nats over its tokens (Gao et al. 2101.00027, section 3.1); not a number
    where none of the tokens stands for a byte, as where a tokenizer knows no word of a text."""
    if not utf8_bytes:
        return math.nan
    return loss * tokens / (math.log(2) * utf8_bytes)
