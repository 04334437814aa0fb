"""How honest are the intervals? The demo ten times, with other seeds and other held-out texts: how often is the loss inside?

Finished repeats are kept in runs/calibration and not trained again; delete that folder to start anew.
"""

from __future__ import annotations

import json
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from record import record

from isolora.study.demo import demo

REPEATS = 10
FOLDER = Path("runs/calibration")


def repeat(seed: int) -> dict[str, Any]:
    """One demo on one thread."""
    story = demo(FOLDER / str(seed), seed=seed, quiet=True, workers=1).to_json()
    proof, chosen, law = story["verification"], story["recommendation"], story["law"]
    return {"seed": seed, "law": law["law"], "model": chosen["model"], "rank": chosen["method"]["rank"], **proof}


def main() -> None:
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        rows = list(pool.map(repeat, range(1, REPEATS + 1)))
    for row in rows:
        print(json.dumps(row))
    errors = [row["relative_error"] for row in rows]
    widths = [(row["interval"][1] - row["interval"][0]) / row["predicted"] for row in rows]
    measured = {
        "repeats": REPEATS,
        "inside_interval": sum(row["inside_interval"] for row in rows),
        "median_relative_error": statistics.median(errors),
        "largest_relative_error": max(errors),
        "median_interval_width": statistics.median(widths),
        "rows": rows,
    }
    record("calibration", measured)


if __name__ == "__main__":
    main()
