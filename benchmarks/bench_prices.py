"""How long a price takes: `isolora cost` of every packaged architecture, first and second time on a machine, as whole processes;
and whether a rehearsal of a few layers books what every layer books, to the last FLOP.

`python benchmarks/bench_prices.py NAME ...` looks at these architectures alone and records nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from statistics import median
from typing import Any

import numpy as np
from record import record

from isolora.config import RunConfig
from isolora.cost.estimate import with_task
from isolora.cost.flops import rehearse
from isolora.models import architectures

SHAPE = ("batch=4", "length=512")
FIRST_SECONDS, SECOND_SECONDS = 5.0, 1.5
"""What is asked of a whole process, on a quiet machine."""


def asked(model: str, cache: str) -> dict[str, float]:
    """Seconds of one `isolora cost`: on the clock and of the processor."""
    before, started = os.times(), time.perf_counter()
    words = [sys.executable, "-m", "isolora", "cost", f"model={model}", *SHAPE, "--json"]
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, "ISOLORA_CACHE": cache, "HF_HUB_OFFLINE": "1"})
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": time.perf_counter() - started, "processor_seconds": processor}


def same_flops(model: str) -> bool:
    """Whether a few layers stand for all, in every coefficient of the ledger."""
    config = with_task(RunConfig(model=model))
    return np.array_equal(rehearse(config).coefficients, rehearse(config, whole=True).coefficients)


def measured(model: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as cache:
        found = {"first": asked(model, cache), "second": asked(model, cache), "same_flops": same_flops(model)}
    first, second = (found[key]["seconds"] for key in ("first", "second"))  # type: ignore[index]
    print(f"{model:<44} {first:5.1f} s, again {second:4.2f} s, FLOPs {'equal' if found['same_flops'] else 'DIFFER'}", flush=True)
    return found


def main() -> None:
    chosen = sys.argv[1:]
    rows = {model: measured(model) for model in chosen or architectures.packaged_architectures()}
    figures: dict[str, Any] = {"models": len(rows), "same_flops": sum(row["same_flops"] for row in rows.values())}
    for time_, limit in (("first", FIRST_SECONDS), ("second", SECOND_SECONDS)):
        seconds = [row[time_]["seconds"] for row in rows.values()]
        figures[time_] = {"median_s": median(seconds), "worst_s": max(seconds), "over_limit": sum(s > limit for s in seconds)}
    print(json.dumps(figures, indent=1))
    if not chosen:
        record("prices", {**figures, "rows": rows})


if __name__ == "__main__":
    main()
