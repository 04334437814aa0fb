"""Does one learning rate serve all sizes and ranks? Each cell of the demo's grid at three rates: what the demo's rate costs."""

from __future__ import annotations

from pathlib import Path

from record import record

from isolora.config import with_value
from isolora.study.demo import demo_study
from isolora.study.running import run_study

FOLDER = Path("runs/transfer")
RATES = [2.5e-3, 5.0e-3, 1.0e-2]


def main() -> None:
    demo = demo_study(seed=0)
    base = with_value(demo.base, "training.evaluate_from", demo.base["training"]["tokens"])
    grid = {**demo.grid, "training.learning_rate": RATES}
    study = demo.model_copy(update={"name": "transfer", "base": base, "grid": grid, "own_seeds": False, "stack": 9})
    points = run_study(study, FOLDER, workers=2, quiet=True).points()
    losses = {(point["model"], point["rank"], point["learning_rate"]): point["loss"] for point in points}
    chosen = demo.base["training"]["learning_rate"]
    rows = []
    for model, rank in sorted({key[:2] for key in losses}):
        cell = {rate: losses[model, rank, rate] for rate in RATES if (model, rank, rate) in losses}
        regret = cell[chosen] / min(cell.values()) - 1
        rows.append({"model": model, "rank": rank, "losses": cell, "regret": regret})
        print(
            f"{model:10s} rank {rank:2d}  "
            + "  ".join(f"{rate:g}: {loss:.4f}" for rate, loss in cell.items())
            + f"  {regret:.2%}"
        )
    worst = max(row["regret"] for row in rows)
    record("transfer", {"learning_rate": chosen, "tokens": demo.base["training"]["tokens"], "worst_regret": worst, "cells": rows})


if __name__ == "__main__":
    main()
