"""A search of 16 trials in a stack of four whose freed places are refilled at once, in rounds of four, and one trial at a time.

Refilled: where a trial is pruned or ends, the next one joins the others, suggested by all that have ended. Rounds: what one of
four leaves empty stays empty until the last of them has ended. Of each seed: processor seconds, FLOPs and steps of the whole
search, and up to the first trial as good as the worst search's best. Steps are the makespan where one takes as long however many
members it has.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from bench_search import SPACE, TRIALS
from record import record

from isolora.config import StudyConfig, parse
from isolora.store import DONE, PRUNED, Point, Store
from isolora.study import running
from isolora.study.running import run_study
from isolora.study.search import identity, run_search, search_result
from isolora.training.stack import Stack

BASE = {
    "model": "nano-55k",
    "data": {"train_examples": 1000, "eval_examples": 30},
    "training": {"tokens": 8192, "batch_tokens": 512, "warmup_steps": 4, "evaluate_from": 512},
}
SEEDS, WAYS = range(12), {"refilled": 4, "rounds": 4, "one at a time": 1}
MEASURES = ("seconds", "flops", "steps", "seconds_to_loss", "flops_to_loss", "steps_to_loss")


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
    search, points = partial(_in_rounds, run_search) if way == "rounds" else run_search, list[Taken]()
    with tempfile.TemporaryDirectory() as aside, patch.object(running, "run_search", search), noted(points):
        started = time.process_time()
        store = run_study(study, Path(aside), quiet=True)
        seconds = time.process_time() - started
        states = {trial.run: trial.state for trial in store.trials(identity(study))}
        own = [taken for taken in points if taken.run in states]
        return {"seconds": seconds, "points": own, "states": states, "best": search_result(study, store).value}


def _in_rounds(search: Callable[..., Any], *asked: Any) -> Any:
    """As where other processes train: the next trials wait for the last of these."""
    return search(*asked[:-1], workers=1)


@dataclass(frozen=True)
class Taken:
    """A point. steps: that the search's stacks had taken by then."""

    run: str
    flops: float
    loss: float
    steps: int


@contextmanager
def noted(points: list[Taken]) -> Iterator[None]:
    """Within the context, points are noted as they are written."""
    steps, step, write = [0], Stack.step, Store.write

    def counted(stack: Stack) -> None:
        steps[0] += 1
        step(stack)

    def listed(store: Store, found: Sequence[Point]) -> None:
        points.extend(Taken(point.run, point.flops, point.loss, steps[0]) for point in found)
        write(store, found)

    with patch.object(Stack, "step", counted), patch.object(Store, "write", listed):
        yield


def until(found: dict[str, Any], loss: float) -> dict[str, Any]:
    """A search's whole, and its part up to the end of the first trial that is as good as `loss`: seconds go with FLOPs."""
    points, states = found["points"], found["states"]
    last = {point.run: point for point in points}
    spent: dict[str, float] = {}
    for point in points:
        spent[point.run] = point.flops
        if states[point.run] == DONE and point is last[point.run] and point.loss <= loss * 1.00001:
            break
    flops = sum(each.flops for each in last.values())
    return {
        "best": found["best"],
        "seconds": found["seconds"],
        "flops": flops,
        "steps": points[-1].steps,
        "seconds_to_loss": found["seconds"] * sum(spent.values()) / flops,
        "flops_to_loss": sum(spent.values()),
        "steps_to_loss": point.steps,
        "pruned": sum(state == PRUNED for state in states.values()),
    }


if __name__ == "__main__":
    main()
