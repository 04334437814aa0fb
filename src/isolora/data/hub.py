"""Data sets of the Hugging Face hub, by id (`owner/name`) and, behind a colon, the configuration (`nyu-mll/glue:cola`)."""

from __future__ import annotations

import re

import pyarrow as pa

from isolora.data.tables import SPLITS, Tables, canonical
from isolora.errors import DataError

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


def read_hub(source: str) -> Tables:
    """All splits of the data set, from the hub or from what was fetched before. Raises DataError with the reason in one line."""
    import datasets  # slow to import, and only needed here

    name, _, configuration = source.partition(":")
    try:
        found = datasets.load_dataset(name, configuration or None)
    except Exception as failure:  # the clients below raise errors of five libraries; to a person all mean the same
        raise DataError(f"data.source: {source!r} {_reason(failure)}") from None
    parts = {canonical(split): part.with_format("arrow")[:] for split, part in found.items()}
    return Tables(_with_train(source, {split: part for split, part in parts.items() if split in SPLITS}))


def _reason(failure: Exception) -> str:
    text = " ".join(str(failure).split())
    if isinstance(failure, OSError) and not isinstance(failure, FileNotFoundError):
        return f"is no packaged name and no local file, and the hub cannot be reached ({text})"
    return f"cannot be loaded from the hub: {text}"


def _with_train(source: str, parts: dict[str, pa.Table]) -> dict[str, pa.Table]:
    if "train" not in parts:
        raise DataError(f"data.source: {source!r} has no split called train (it has: {', '.join(parts) or 'none'})")
    return parts
