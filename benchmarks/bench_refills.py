"""A search of 16 trials in a stack of four whose freed places are refilled at once, in rounds of four, and one trial at a time.

Refilled: where a trial is pruned or ends, the next one joins the others, suggested by all that have ended. Rounds: what one of
four leaves empty stays empty until the last of them has ended. Of each seed: processor seconds and FLOPs of the whole search, and
up to the first trial as good as the worst search's best.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from bench_search import SPACE, TRIALS
from record import record

from isolora.config import StudyConfig, parse
from isolora.store import FILE, Store
from isolora.study import running
from isolora.study.running import run_study
from isolora.study.search import identity, run_search, search_result

BASE = {
    "model": "nano-55k",
    "data": {"train_examples": 1000, "eval_examples": 30},
    "training": {"tokens": 8192, "batch_tokens": 512, "warmup_steps": 4, "evaluate_from": 512},
}
SEEDS, WAYS = range(12), {"refilled": 4, "rounds": 4, "one at a time": 1}
MEASURES = ("seconds", "flops", "seconds_to_loss", "flops_to_loss")


def main() -> None:
    torch.set_num_threads(1)
    searched(99, "refilled")  # imports, and what is read once
    rows = [one_seed(seed) for seed in SEEDS]
    ratios = {
        way: {measure: median(row[way][measure] / row["refilled"][measure] for row in rows) for measure in MEASURES}
        for way in WAYS
    }
    print("over refilled, medians:", ratios)
    record("refills", {"seeds": rows, "over_refilled": ratios, "base": BASE, "space": SPACE, "trials": TRIALS})


def one_seed(seed: int) -> dict[str, Any]:
    order = list(WAYS)[seed % 3 :] + list(WAYS)[: seed % 3]
    searches = {way: searched(seed, way) for way in order}
    loss = max(found["best"] for found in searches.values())
    row = {"seed": seed, "loss": loss} | {way: until(found, loss) for way, found in searches.items()}
    print(row, flush=True)
    return row


def searched(seed: int, way: str) -> dict[str, Any]:
    """A search's best loss, its processor seconds, how its trials ended, and its points in the order in which they were taken."""
    given = {"space": SPACE, "trials": TRIALS, "startup": 6, "seed": seed}
    study = parse(StudyConfig, {"base": BASE, "search": given, "stack": WAYS[way], "final": {"training.tokens": 512}})
    search = partial(_in_rounds, run_search) if way == "rounds" else run_search
    with tempfile.TemporaryDirectory() as aside, patch.object(running, "run_search", search):
        started = time.process_time()
        store = run_study(study, Path(aside), quiet=True)
        seconds = time.process_time() - started
        return {"seconds": seconds, "points": taken(study, store), "best": search_result(study, store).value}


def _in_rounds(search: Callable[..., Any], *asked: Any) -> Any:
    """As where other processes train: the next trials wait for the last of these."""
    return search(*asked[:-1], workers=1)


def taken(study: StudyConfig, store: Store) -> list[tuple[str, float, float, str]]:
    """(run, FLOPs so far, loss, how the run ended) of the trials' points."""
    own = {trial.run: trial.state for trial in store.trials(identity(study))}
    with closing(sqlite3.connect(store.folder / FILE)) as opened:
        rows = opened.execute("SELECT run, flops, loss FROM points ORDER BY rowid").fetchall()
    return [(run, flops, loss, own[run]) for run, flops, loss in rows if run in own]


def until(found: dict[str, Any], loss: float) -> dict[str, Any]:
    """A search's whole, and its share up to the end of the first trial that is as good as `loss`: seconds go with FLOPs."""
    last = {run: flops for run, flops, _, _ in found["points"]}
    spent: dict[str, float] = {}
    for run, flops, reached, state in found["points"]:
        spent[run] = flops
        if state == "DONE" and flops == last[run] and reached <= loss * 1.00001:
            break
    share = sum(spent.values()) / sum(last.values())
    states = {run: state for run, _, _, state in found["points"]}
    return {
        "best": found["best"],
        "seconds": found["seconds"],
        "flops": sum(last.values()),
        "seconds_to_loss": found["seconds"] * share,
        "flops_to_loss": sum(spent.values()),
        "pruned": sum(state == "PRUNED" for state in states.values()),
    }


if __name__ == "__main__":
    main()
