"""What a search is worth: 16 trials of TPE with Hyperband against chance without pruning for the same FLOPs, and a grid."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from record import record

from isolora.config import StudyConfig, parse
from isolora.store import DONE, Store
from isolora.study.running import run_study
from isolora.study.search import identity, search_result

FOLDER = Path("runs/bench-search")
RATE, RANK = "training.learning_rate", "method.rank"
SPACE = {RATE: {"low": 1e-4, "high": 1e-1, "log": True}, RANK: [1, 2, 4, 8, 16, 32]}
GRID = {RATE: [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1], RANK: [1, 4, 32]}
BASE = {
    "model": "nano-150k",
    "data": {"train_examples": 2000, "eval_examples": 60},
    "training": {"tokens": 16384, "batch_tokens": 512, "warmup_steps": 4, "evaluate_from": 1024},
}
SEEDS, TRIALS, STACK = range(3), 16, 4
FINAL = {"training.tokens": 512}  # the comparison is of the trials


def main() -> None:
    folder = FOLDER / "grid"
    grid = run_study(parse(StudyConfig, {"base": BASE, "grid": GRID, "own_seeds": False, "stack": 7}), folder, quiet=True)
    ends = [row for row in grid.points() if row["tokens"] >= BASE["training"]["tokens"]]
    best, grid_flops = min(row["loss"] for row in ends), sum(row["flops"] for row in ends)
    print(f"grid       {len(ends)} runs, {grid_flops:.3g} FLOPs, best loss {best:.4f}")
    rows = [one_seed(seed, best) for seed in SEEDS]
    means = {name: fmean(row[name] for row in rows) for name in ("tpe", "chance", "chance_all", "share_saved")}
    print("mean regret over the grid's best: " + ", ".join(f"{name} {value:+.2%}" for name, value in means.items()))
    record("search", {"grid_loss": best, "grid_flops": grid_flops, "seeds": rows, "means": means, "base": BASE, "space": SPACE})


def one_seed(seed: int, best: float) -> dict[str, Any]:
    """Regrets over the grid's best loss: of TPE with Hyperband, of chance for the same FLOPs, and of chance with all trials."""
    pruned, store = study(seed, sampler="tpe", pruner="hyperband")
    found = search_result(pruned, store)
    by_chance = losses(*study(seed, sampler="random", pruner="none"))
    affordable = [loss for spent, loss in by_chance if spent <= found.flops]
    row = {
        "seed": seed,
        "flops": found.flops,
        "chance_flops": by_chance[-1][0],
        "chance_trials": len(affordable),
        "states": found.states,
        "share_saved": found.saved_flops / (found.flops + found.saved_flops),
        "tpe": found.value / best - 1,
        "chance": min(affordable) / best - 1,
        "chance_all": min(loss for _, loss in by_chance) / best - 1,
        "best": found.best,
    }
    print(
        f"seed {seed}     TPE and Hyperband {row['tpe']:+.2%} for {found.flops:.3g} FLOPs {found.states}; "
        f"chance {row['chance']:+.2%} for as much ({len(affordable)} trials), {row['chance_all']:+.2%} for {by_chance[-1][0]:.3g}"
    )
    return row


def study(seed: int, **search: Any) -> tuple[StudyConfig, Store]:
    given = {"space": SPACE, "trials": TRIALS, "startup": 6, "seed": seed, **search}
    config = parse(StudyConfig, {"base": BASE, "search": given, "stack": STACK, "final": FINAL})
    return config, run_study(config, FOLDER / f"{search['sampler']}-{seed}", quiet=True)


def losses(config: StudyConfig, store: Store) -> list[tuple[float, float]]:
    """FLOPs spent up to each trial that came to its end, and its loss."""
    spent = {row["run"]: row["flops"] for row in store.points()}
    found, sum_flops = [], 0.0
    for trial in store.trials(identity(config)):
        sum_flops += spent[trial.run]
        if trial.state == DONE:
            found.append((sum_flops, float(trial.value or 0.0)))
    return found


if __name__ == "__main__":
    main()
