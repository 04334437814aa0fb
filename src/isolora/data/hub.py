"""Data sets of the Hugging Face hub, by id (`owner/name`) and, behind a colon, the configuration (`nyu-mll/glue:cola`)."""

from __future__ import annotations

import re
from typing import Any

from isolora.data.origins import numbered
from isolora.data.tables import Tables, split_of
from isolora.data_cards import Card, card_of
from isolora.errors import DataError

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


def read_hub(source: str) -> Tables:
    """All splits of the data set, from the hub or from what was fetched before. Raises DataError with the reason in one line."""
    card, found = open_hub(source, streaming=False)
    return Tables({split: numbered(part[:], f"{source} {there} row") for split, (there, part) in found.items()}, card)


def open_hub(source: str, streaming: bool) -> tuple[Card, dict[str, tuple[str, Any]]]:
    """(card, split -> its name there and the data set that gives Arrow tables). Raises DataError as `read_hub` does."""
    import datasets  # slow to import, and only needed here

    card = card_of(source)
    name, _, configuration = (card.hub or (source,))[0].partition(":")
    options = {"streaming": True} if streaming else {}
    try:
        found = datasets.load_dataset(name, configuration or None, **options)
    except Exception as failure:  # the clients below raise errors of five libraries; to a person all mean the same
        raise DataError(f"data.source: {source!r} {reason(failure)}") from None
    parts = {split: (there, part.with_format("arrow")) for there, part in found.items() if (split := split_of(there, card))}
    if "train" not in parts:
        raise DataError(f"data.source: {source!r} has no split called train (it has: {', '.join(found) or 'none'})")
    return card, parts


def reason(failure: Exception) -> str:
    """What a client of the hub complains of, in words that follow a source's name."""
    text = " ".join(str(failure).split())
    if isinstance(failure, OSError) and not isinstance(failure, FileNotFoundError):
        return f"is no packaged name and no local file, and the hub cannot be reached ({text})"
    return f"cannot be loaded from the hub: {text}"
