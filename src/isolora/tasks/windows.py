"""Long texts as overlapping windows."""

from __future__ import annotations

from itertools import pairwise

from isolora.errors import ConfigError

Window = tuple[int, int]
"""First token, token after the last."""


def windows(tokens: int, room: int, overlap: float) -> list[Window]:
    """Windows of at most `room` tokens that cover a text of `tokens`; each sees a share `overlap` of the one before again."""
    if room < 1:
        raise ConfigError("data.max_length: leaves no room for a text beside the special tokens")
    step = max(1, room - int(overlap * room))
    return [(start, min(start + room, tokens)) for start in range(0, max(1, tokens - room + step), step)]


def seams(cut: list[Window]) -> list[Window]:
    """For each window the tokens that have most context in it: up to the middle of what it shares with the next."""
    middles = [(stop + start) // 2 for (_, stop), (start, _) in pairwise(cut)]
    return list(zip([0, *middles], [*middles, cut[-1][1]], strict=True))
