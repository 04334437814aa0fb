"""Runs whose learning rate decays over their budget: a point on the way is not where a shorter run would have ended.

A run of a quarter of the tokens would have decayed to its end by then. Measured (nano-150k, cosine, 16,000 of 64,000 tokens):
4.816 on the way, 4.836 at the end of a run of 16,000. So where enough ends are there, they alone are fitted (as Hoffmann et al.
2203.15556, section 3, for the same reason); a constant rate with averaged weights needs no such care.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from isolora.fit.fit_points import by_group
from isolora.laws import distinct
from isolora.table import Table

_NAMES = ("decaying", "linear", "cosine", "polynomial", "warmup_stable_decay")
"""How schedules begin that end low; those of transformers that go on for ever (constant, inverse_sqrt) are none."""
_FEWEST_ENDS, _FEWEST_LENGTHS = 6, 3


def without_midway(table: Table) -> Table:
    """The table without the points on the way of runs whose rate decays, and their count among what it left out; or with them
    and a note, where the ends are too few."""
    if "tokens" not in table or "run" not in table:
        return table
    decaying_M = _decaying(table)
    if not decaying_M.any():
        return table
    _, run_M = np.unique(table["run"].astype(str), return_inverse=True)
    end_M = np.zeros(len(table), dtype=bool)
    end_M[[rows[-1] for rows in by_group(run_M, table["tokens"])]] = True
    midway_M = decaying_M & ~end_M & (table["tokens"] > 0)
    if not midway_M.any():
        return table
    kept = table.where(~midway_M)
    ends = kept["tokens"][kept["tokens"] > 0]
    lengths = len(distinct(ends))
    if len(ends) >= _FEWEST_ENDS and lengths >= _FEWEST_LENGTHS:
        return replace(kept, left_out={**kept.left_out, "on the way of runs whose rate decays": int(midway_M.sum())})
    why = (
        f"the rate of {len(set(table['run'][decaying_M]))} runs decays over their budget, so that points on the way are not where"
    )
    few = f"{len(ends)} ends at {lengths} lengths are too few for a law"
    note = f"{why} shorter runs end, and {few}; train several lengths, or set training.schedule: constant"
    return replace(table, notes=(*table.notes, note))


def _decaying(table: Table) -> NDArray[np.bool_]:
    """Points of runs whose rate decays, (M,), by their configuration or by a column `schedule`."""
    name, decays = ("config", _decays) if "config" in table else ("schedule", _is_decaying)
    if name not in table:
        return np.zeros(len(table), dtype=bool)
    known = {text: decays(str(text)) for text in set(table[name])}
    return np.array([known[text] for text in table[name]], dtype=bool)


def _is_decaying(schedule: str) -> bool:
    return schedule.strip().lower().startswith(_NAMES)


def _decays(config: str) -> bool:
    if '"schedule"' not in config or '"schedule":"constant"' in config:
        return False
    try:
        return _is_decaying(json.loads(config)["training"]["schedule"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
