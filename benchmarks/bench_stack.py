"""A stack of four adapters against the four runs alone: the same curves, in what share of the time? (alternating, medians)"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from record import record

from isolora.config import RunConfig, parse
from isolora.store import Store
from isolora.training import train_stack

ROUNDS = 3
MEMBERS = ((2, 3e-3), (4, 1e-2), (8, 5e-3), (16, 2e-2))
MODELS = ("nano-55k", "nano-1m")


def runs(model: str) -> list[RunConfig]:
    """Ranks 2, 4, 8, 16 with other learning rates and seeds, 50 steps each, evaluated at the end."""
    shared = {"model": model, "data": {"train_examples": 4000, "eval_examples": 20}}
    budget = {"steps": 50, "batch_tokens": 1024, "evaluate_from": 2048}
    return [
        parse(RunConfig, {**shared, "method": {"rank": rank}, "training": {**budget, "learning_rate": rate}, "seed": seed})
        for seed, (rank, rate) in enumerate(MEMBERS)
    ]


def timed(stacks: list[list[RunConfig]]) -> tuple[float, dict[tuple[str, int], float]]:
    """Training seconds, and every point's training and held-out losses by (run, step)."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        started = time.perf_counter()
        for stack in stacks:
            train_stack(stack, store, "grid", quiet=True)
        seconds = time.perf_counter() - started
        return seconds, {(point["run"], point["step"]): point["loss"] for point in store.points()}


def main() -> None:
    measured = {}
    for model in MODELS:
        configs = runs(model)
        alone, together = [[config] for config in configs], [configs]
        timed(together)  # warms the caches of data, base and ledger
        pairs = [(timed(together), timed(alone)) for _ in range(ROUNDS)]
        ratios = [stack[0] / single[0] for stack, single in pairs]
        (_, joint), (_, single) = pairs[0]
        measured[model] = {
            "stack_over_sum_of_four": {"median": statistics.median(ratios), "all": ratios},
            "seconds_alone": statistics.median(single[0] for _, single in pairs),
            "largest_relative_loss_difference": max(abs(joint[key] - single[key]) / single[key] for key in single),
            "compared_points": len(single),
        }
        print(model, measured[model])
    record("stack", {"rounds": ROUNDS, "members": MEMBERS, "models": measured})


if __name__ == "__main__":
    main()
