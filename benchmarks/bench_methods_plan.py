"""Does advice over several methods hold? Two small studies: plan, verify, report, and every option at the same budget.

One study has five methods on one base, the other LoRA on three bases. Each option is tuned on a small budget, then followed
with two seeds. The plan is for 4 x the largest run; what it recommends is trained, and so is every other option, at its own
tokens for that budget. Measured: how far the recommendation lies above the best of that grid. Finished runs stay in the
folder.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from record import record

from isolora.config import StudyConfig, parse
from isolora.plan import NoRecommendation, options
from isolora.plan.budget import DEFAULT_BUDGET
from isolora.report import report
from isolora.study.running import run_study
from isolora.study.study_recommendation import advise, largest_fitted_flops
from isolora.table import read

FOLDER = Path("runs/methods-plan")
TOKENS = 32_768
RATES = [1e-3, 3e-3, 1e-2, 3e-2, 1e-1]
GRIDS: dict[str, dict[str, list[Any]]] = {
    "five methods": {
        "model": ["nano-440k"],
        "method": [
            {"name": "lora", "rank": 8},
            {"name": "full"},
            {"name": "bottleneck"},
            {"name": "prompt"},
            {"name": "adalora"},
        ],
    },
    "three bases": {"model": ["nano-440k", "nano-150k", "nano-55k"], "method": [{"name": "lora", "rank": 8}]},
}
BASE = {
    "data": {"source": "debian-descriptions", "train_examples": 8000, "eval_examples": 200, "max_length": 128},
    "training": {"tokens": TOKENS, "batch_tokens": 1024, "evaluate_from": TOKENS // 8, "evaluate_ratio": 2**0.5},
}


def study(grid: dict[str, list[Any]]) -> StudyConfig:
    tune = {"over": "training.learning_rate", "tokens": TOKENS // 2}
    keys = {**grid, "training.learning_rate": RATES, "seed": [0, 1]}
    return parse(StudyConfig, {"name": "methods-plan", "base": BASE, "grid": keys, "tune": tune, "stack": 2})


def whole_grid(folder: Path, flops: float) -> list[dict[str, Any]]:
    """Every option of a study, trained for as many tokens as the budget buys, on a seed of its own: best loss first."""
    runs = [
        {
            "model": option.model,
            "method": option.adapter,
            "training.learning_rate": option.learning_rate,
            "training.tokens": round(flops / option.flops_per_token),
            "seed": 100,
        }
        for option in options(read(folder))
    ]
    training = {**BASE["training"], "evaluate_from": 4 * TOKENS}
    config = parse(StudyConfig, {"name": "grid", "base": {**BASE, "training": training}, "runs": runs})
    last = {point["run"]: point for point in run_study(config, folder.with_name(folder.name + "-grid"), quiet=True).points()}
    names = ("model", "method", "rank", "tokens", "flops", "loss", "state")
    return sorted(({name: point[name] for name in names} for point in last.values()), key=lambda row: float(row["loss"]))


def answered(name: str, folder: Path) -> dict[str, Any]:
    """One study, its advice, the proof of it, and the grid."""
    run_study(study(GRIDS[name]), folder, quiet=True)
    table = read(folder)
    flops = DEFAULT_BUDGET * largest_fitted_flops(table, "loss")
    grid = whole_grid(folder, flops)
    found: dict[str, Any] = {"study": name, "budget_flops": flops, "grid": grid}
    try:
        advice = advise(folder, table, f"{flops:g}flops")
    except NoRecommendation as refusal:
        return {**found, "refused": refusal.reason}
    proof = advice.verified(quiet=True)
    page = report(folder, read(folder), advice.fit, folder / "report.html", advice.recommendation, proof)
    chosen = advice.recommendation
    shown = {"model": chosen.model, "method": chosen.method, "tokens": chosen.tokens, "warnings": list(chosen.warnings)}
    told = {key: value for key, value in proof.to_json().items() if key not in ("adapter", "run")}
    best = float(grid[0]["loss"])
    return {
        **found,
        "recommended": shown,
        "proof": told,
        "above_best": proof.measured / best - 1,
        "report_bytes": page.stat().st_size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    started = time.perf_counter()
    rows = [answered(name, folder / name.replace(" ", "-")) for name in GRIDS]
    print(json.dumps(rows, indent=1))
    record("methods-plan", {"seconds": time.perf_counter() - started, "studies": rows})


if __name__ == "__main__":
    main()
