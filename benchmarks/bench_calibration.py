"""How honest are the intervals? The demo ten times, with other seeds and other held-out texts: how often is the loss inside?"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

from record import record

from isolora.study import demo

REPEATS = 10


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, REPEATS + 1):
            story = demo(Path(folder) / str(seed), seed=seed, quiet=True).to_json()
            proof, chosen = story["verification"], story["recommendation"]
            row = {"seed": seed, "law": story["law"]["law"], "model": chosen["model"], "rank": chosen["method"]["rank"], **proof}
            rows.append(row | {"seconds": story["seconds"]})
            print(json.dumps(rows[-1]), flush=True)
    errors = [row["relative_error"] for row in rows]
    widths = [(row["interval"][1] - row["interval"][0]) / row["predicted"] for row in rows]
    record(
        "calibration",
        {
            "repeats": REPEATS,
            "inside_interval": sum(row["inside_interval"] for row in rows),
            "median_relative_error": statistics.median(errors),
            "largest_relative_error": max(errors),
            "median_relative_width": statistics.median(widths),
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
