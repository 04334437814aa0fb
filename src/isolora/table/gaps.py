"""Cells that are missing: which rows and columns they take out of a table, and the words for it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from isolora.table.columns import SHORT_NAMES, Column

PLACES = ("tokens", "body_parameters")
"""A point that lacks one of these is at no known place; without another quantity it is of use to laws that do not read that."""


def without_gaps(columns: Mapping[str, Column]) -> tuple[dict[str, Column], dict[str, int], list[str]]:
    """(the columns at the rows whose place is known, how many rows were left out by reason, sentences about unused columns).

    One row without its size must not take the size from all others: the law would then be one for all sizes, without a word.
    """
    kept, left_out, notes = dict(columns), dict[str, int](), list[str]()
    for name in [name for name in SHORT_NAMES.values() if name in kept and not np.isfinite(kept[name]).any()]:
        del kept[name]
        notes.append(f"column {name} holds no number")
    for name in [name for name in PLACES if name in kept]:
        known_M = np.isfinite(kept[name])
        if not known_M.all():
            left_out[f"no {name}"] = int((~known_M).sum())
            kept = {other: values[known_M] for other, values in kept.items()}
    return kept, left_out, notes + _unused(kept)


def _unused(columns: Mapping[str, Column]) -> list[str]:
    """Quantities that some trained points lack: no law reads them."""
    count = len(next(iter(columns.values())))
    trained_M: NDArray[np.bool_] = columns["tokens"] > 0 if "tokens" in columns else np.ones(count, dtype=bool)
    found = []
    for name in [name for name in SHORT_NAMES.values() if name in columns and name not in PLACES]:
        absent = int((~(np.isfinite(columns[name]) & (columns[name] > 0)) & trained_M).sum())
        if absent:
            found.append(f"column {name} is not used: {absent} of {int(trained_M.sum())} points have none")
    return found
