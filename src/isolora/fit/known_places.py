"""What a table knows of the places that a person may name, a row for each base, method, rank and rate.

A fit keeps it, so that `model=nano-1m rank=8` means the same to a fit that was written down as to its table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isolora.json_types import JsonMapping, JsonObject
from isolora.laws import Array
from isolora.table import Table

_TEXTS, _NUMBERS = ("model", "method"), ("rank", "learning_rate")
_RATIOS = {"flops_per_token": ("flops", "tokens"), "tokens_per_example": ("unique_tokens", "unique_examples")}
_COUNT = "points"
_MOST = 400
"""Rows beyond which a table is a list of sizes, not a study of a few bases: nothing is kept of it."""


def known_places(table: Table) -> JsonObject:
    """Columns of those rows: medians, and how many points stand behind each; nothing for a table that names no bases."""
    keys = [table[name].astype(str) for name in (*_TEXTS, *_NUMBERS) if name in table]
    if "model" not in table or len(set(zip(*keys, strict=True))) > _MOST:
        return {}
    _, group_M = np.unique(np.stack(keys), axis=1, return_inverse=True)
    groups = [np.flatnonzero(group_M.ravel() == group) for group in range(group_M.max() + 1)]
    found: JsonObject = {name: [str(table[name][rows[0]]) for rows in groups] for name in _TEXTS if name in table}
    for name in (*_NUMBERS, "body_parameters", "trainable_parameters"):
        found |= {name: _medians(table[name], groups)} if name in table else {}
    for name, (over, under) in _RATIOS.items():
        everywhere = [np.arange(len(table))] * len(groups)  # the length of an example is the data's
        ratio_M = table[over] / np.maximum(table[under], 1.0) if over in table and under in table else None
        if ratio_M is not None:
            found |= {name: _medians(ratio_M, groups if under == "tokens" else everywhere)}
    return {**found, _COUNT: [len(rows) for rows in groups]}


def _medians(values_M: Array, groups: Sequence[NDArray[np.int64]]) -> list[float | None]:
    told = [values_M[rows][np.isfinite(values_M[rows])] for rows in groups]
    return [float(np.median(values)) if values.size else None for values in told]


def as_table(known: JsonMapping) -> Table | None:
    """A table from which places take what they leave out; None where nothing was kept."""
    if not known:
        return None
    columns: dict[str, Any] = {name: np.array(values, dtype=object) for name, values in known.items() if name in _TEXTS}
    columns |= {name: np.array(values, dtype=float) for name, values in known.items() if name not in (*_TEXTS, _COUNT)}
    for name, (over, under) in _RATIOS.items():
        if name in columns:
            columns |= {over: columns.pop(name), under: np.ones(len(known[_COUNT]))}
    return Table({name: np.repeat(values, known[_COUNT]) for name, values in columns.items()})
