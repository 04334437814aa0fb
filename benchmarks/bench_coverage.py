"""Blind extrapolation on published tables: fitted on all points of compute <= max / r, judged on every point above.

`make bench-coverage` writes benchmarks/results/coverage.json. Tables are CSV files with n, tokens, flops and loss, read from a
folder (default: ../shared/data/scaling, where there is one): they are not packaged. Each table weighs as many points as are
judged, 30 at most. A refusal counts as no answer. Nothing is tuned by table.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from record import record

from isolora.errors import TableError
from isolora.fit import fit
from isolora.fit.places import predicted
from isolora.table import Table, read

RATIOS = (2, 4, 10, 30)
HEADER = {"n", "tokens", "flops", "loss"}
NEEDED = ("body_parameters", "tokens", "flops", "loss")
MOST_POINTS = 30
FEWEST_POINTS, FEWEST_SIZES = 15, 3
DEFAULT = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "scaling"


def tables(folder: Path) -> Iterator[tuple[str, Table]]:
    """The tables of a folder whose header has n, tokens, flops and loss, by name."""
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8") as file:
            header = file.readline().strip().split(",")
        if set(header) >= HEADER:
            table = read(path)
            yield path.stem, table.where(np.all([np.isfinite(table[name]) for name in NEEDED], axis=0))


def judged(table: Table, ratio: float) -> dict[str, Any] | None:
    """Errors, coverage and width beyond max / ratio; None where too little lies below it."""
    limit = table["flops"].max() / ratio * 1.001
    early, late = table.where(table["flops"] <= limit), table.where(table["flops"] > limit)
    if len(early) < FEWEST_POINTS or not len(late) or np.unique(early["body_parameters"]).size < FEWEST_SIZES:
        return None
    started = time.process_time()
    try:
        points = predicted(fit(early), late)["points"]
    except TableError as refusal:
        return {"points": len(late), "refused": str(refusal)}
    value = np.array([point["predicted"] for point in points])
    low, high = np.array([point["interval"] for point in points]).T
    return {
        "points": len(late),
        "mean_error": float(np.abs(value / late["loss"] - 1).mean()),
        "worst_error": float(np.abs(value / late["loss"] - 1).max()),
        "inside": float(((low <= late["loss"]) & (late["loss"] <= high)).mean()),
        "below": float((late["loss"] < low).mean()),
        "above": float((late["loss"] > high).mean()),
        "width": float(np.median((high - low) / value)),
        "seconds": time.process_time() - started,
    }


def averaged(found: list[dict[str, Any]]) -> dict[str, float]:
    """Means over tables, each weighing its points, 30 at most."""
    weight = np.array([min(row["points"], MOST_POINTS) for row in found], dtype=float)
    names = ("mean_error", "inside", "below", "above", "width")
    return {"weight": float(weight.sum())} | {
        name: float(weight @ np.array([row[name] for row in found]) / weight.sum()) for name in names
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT)
    folder = parser.parse_args().folder
    rows = [
        {"table": name, "ratio": ratio, **found}
        for name, table in tables(folder)
        for ratio in RATIOS
        if (found := judged(table, ratio)) is not None
    ]
    answered = [row for row in rows if "refused" not in row]
    if not answered:
        raise SystemExit(f"no table with {', '.join(NEEDED)} in {folder}")
    by_ratio = {str(ratio): averaged(at) for ratio in RATIOS if (at := [row for row in answered if row["ratio"] == ratio])}
    measured = {"all": averaged(answered), "by_ratio": by_ratio, "refused": len(rows) - len(answered), "tables": rows}
    print(json.dumps({name: measured[name] for name in ("all", "by_ratio", "refused")}, indent=1))
    record("coverage", measured)


if __name__ == "__main__":
    main()
