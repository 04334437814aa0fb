"""Times of a table's points on an accelerator that their runs were not made on: what its FLOPs take there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from isolora.cost.accelerators import Place, packaged_accelerators
from isolora.errors import ConfigError, TableError
from isolora.store import FILE, Store
from isolora.table import Table

_USUAL = "bfloat16"


def timed_on(table: Table, source: Path, place: Place, precision: str | None = None) -> Table:
    """The table with `seconds` as its `flops` take on an accelerator, and a note of it; as it is where none is named.

    precision: what runs would compute in; by default what those of `source` did, see `computed_in`.
    Raises ConfigError without a utilisation or a peak rate in that precision, TableError for a table without FLOPs.
    """
    accelerator = place.accelerator
    if accelerator is None:
        if precision is not None:
            raise ConfigError(f"--precision: of which accelerator? give --on too (valid: {', '.join(packaged_accelerators())})")
        return table
    if place.utilisation is None:
        raise ConfigError(f"--on: {accelerator.name} needs --utilisation U, the share of its peak rate that such runs reach")
    if "flops" not in table or not np.isfinite(table["flops"]).any():
        raise TableError(f"--on: times on {accelerator.name} follow from FLOPs, and the table has no flops column")
    precision = precision or computed_in(source)
    peak = accelerator.peak(precision, "--precision")
    seconds_M = table["flops"] / (place.utilisation * peak)
    note = f"times are those of {accelerator.name} at {place.utilisation:.3g} of {peak / 1e12:g} TFLOP/s in {precision}"
    return replace(table, columns={**table.columns, "seconds": seconds_M}, notes=(*table.notes, note))


def memory_on(place: Place, table: Table) -> float | None:
    """Bytes of the accelerator that is named, where the table tells how many its runs took."""
    told = "peak_memory_bytes" in table and bool(np.isfinite(table["peak_memory_bytes"]).any())
    return place.accelerator.memory_bytes if told and place.accelerator is not None else None


def computed_in(source: Path) -> str:
    """What the runs of a study computed in; bfloat16, which accelerators train in, for a table and for runs of several."""
    folder = source.parent if source.name == FILE else source
    if not (folder / FILE).is_file():
        return _USUAL
    trained = [json.loads(run["config"]).get("training", {}) for run in Store(folder).runs()]
    used = {training.get("precision", "float32") for training in trained}
    return used.pop() if len(used) == 1 else _USUAL
