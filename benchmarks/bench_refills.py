"""A search of 16 trials whose freed slots are refilled at once, against one in rounds of four that wait for their last member.

Trials one at a time (`stack: 1`) are the first: where one is pruned or ends, the next one takes its place, suggested by all that
have ended. Rounds (`stack: 4`) train four together, and what one of them leaves empty stays empty until the round is over. Of
each seed: processor seconds and FLOPs of the whole search, and up to the first trial as good as the worse search's best.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from bench_search import SPACE, TRIALS
from record import record

from isolora.config import StudyConfig, parse
from isolora.store import Store
from isolora.study.running import run_study
from isolora.study.search import identity, search_result

BASE = {
    "model": "nano-55k",
    "data": {"train_examples": 1000, "eval_examples": 30},
    "training": {"tokens": 8192, "batch_tokens": 512, "warmup_steps": 4, "evaluate_from": 512},
}
SEEDS, WAYS = range(3), {"refilled": 1, "rounds": 4}


def main() -> None:
    torch.set_num_threads(1)
    rows = [one_seed(seed) for seed in SEEDS]
    ratios = {
        measure: median(row["rounds"][measure] / row["refilled"][measure] for row in rows)
        for measure in ("seconds", "flops", "seconds_to_loss", "flops_to_loss")
    }
    print("rounds over refilled, medians:", {name: round(value, 3) for name, value in ratios.items()})
    record("refills", {"seeds": rows, "rounds_over_refilled": ratios, "base": BASE, "space": SPACE, "trials": TRIALS})


def one_seed(seed: int) -> dict[str, Any]:
    order = list(WAYS) if seed % 2 == 0 else list(reversed(WAYS))
    searches = {way: searched(seed, WAYS[way]) for way in order}
    loss = max(found["best"] for found in searches.values())
    row = {"seed": seed, "loss": loss} | {way: until(found, loss) for way, found in searches.items()}
    print(row, flush=True)
    return row


def searched(seed: int, stack: int) -> dict[str, Any]:
    """A search's best loss, its processor seconds, and (FLOPs, loss) of its trials in the order in which they ended."""
    given = {"space": SPACE, "trials": TRIALS, "startup": 6, "seed": seed}
    study = parse(StudyConfig, {"base": BASE, "search": given, "stack": stack, "final": {"training.tokens": 512}})
    with tempfile.TemporaryDirectory() as aside:
        started = time.process_time()
        store = run_study(study, Path(aside), quiet=True)
        seconds = time.process_time() - started
        return {"stack": stack, "seconds": seconds, "trials": ends(study, store), "best": search_result(study, store).value}


def ends(study: StudyConfig, store: Store) -> list[tuple[float, float, str]]:
    """(FLOPs, loss, state) of each trial."""
    last = {point["run"]: point for point in store.last_points()}
    own = dict.fromkeys(trial.run for trial in store.trials(identity(study)) if trial.run in last)
    return [(last[run]["flops"], last[run]["loss"], last[run]["state"]) for run in own]


def until(found: dict[str, Any], loss: float) -> dict[str, Any]:
    """A search's whole, and its share up to the first finished trial that is as good as `loss`: seconds go with FLOPs."""
    flops = [spent for spent, _, _ in found["trials"]]
    good = [k for k, (_, reached, state) in enumerate(found["trials"]) if state == "DONE" and reached <= loss * 1.00001]
    together = flops[: _round_end(good[0], len(flops), found)]
    share = sum(together) / sum(flops)
    return {
        "best": found["best"],
        "seconds": found["seconds"],
        "flops": sum(flops),
        "seconds_to_loss": found["seconds"] * share,
        "flops_to_loss": sum(together),
        "pruned": sum(state == "PRUNED" for _, _, state in found["trials"]),
    }


def _round_end(k: int, count: int, found: dict[str, Any]) -> int:
    """Trials that have been paid for when trial k has ended: those of its round too."""
    width = found["stack"]
    return min(count, (k // width + 1) * width)


if __name__ == "__main__":
    main()
