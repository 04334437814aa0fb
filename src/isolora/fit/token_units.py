"""Whether the losses of a table's bases compare: not where each base cuts the same text into tokens of its own.

A loss is in nats per token. Bits per byte are that over the bytes of a token, so that the two tell how many bytes a token of
each base has: one number for all bases of one tokenizer on one held-out text.
"""

from __future__ import annotations

import numpy as np

from isolora.table import Table

BITS_PER_BYTE = "bits_per_byte"
_SAME = 0.005
"""Share by which bytes a token differ where tokenizers do: another split of the text alone may move them as much."""


def bytes_per_token(table: Table) -> dict[str, float]:
    """Bytes of held-out text in a token of each base, the median over its points; none where the table does not tell."""
    if not {"model", "loss", BITS_PER_BYTE} <= table.columns.keys():
        return {}
    with np.errstate(divide="ignore", invalid="ignore"):
        bytes_M = table["loss"] / (table[BITS_PER_BYTE] * np.log(2))
    told_M = np.isfinite(bytes_M) & (bytes_M > 0)
    models_M = table["model"].astype(str)
    return {str(model): float(np.median(bytes_M[told_M & (models_M == model)])) for model in np.unique(models_M[told_M])}


def same_tokens(smaller: float, larger: float) -> bool:
    """Whether so many bytes a token may come from one tokenizer."""
    return larger <= (1 + _SAME) * smaller


def incomparable(table: Table) -> str:
    """Why the losses of a table's bases do not compare; empty where they do, or where it is not known."""
    size_of = bytes_per_token(table)
    if not size_of or same_tokens(min(size_of.values()), max(size_of.values())):
        return ""
    ends = (min(size_of, key=lambda name: (sign * round(size_of[name], 2), name)) for sign in (1, -1))
    shown = " and ".join(f"{size_of[name]:.2f} bytes for {name}" for name in ends)
    return f"bases cut texts into tokens of their own ({shown}), so that means over tokens do not compare"
