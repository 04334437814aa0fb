"""Is bigger better? Every nano model before and after adaptation, on the same texts and tokens, two seeds."""

from __future__ import annotations

import tempfile
from pathlib import Path

from record import record

from isolora.config import RunConfig, StudyConfig, parse
from isolora.models import packaged_models
from isolora.runs.prepared import PreparedRun
from isolora.study.design import grid_runs
from isolora.study.running import run_study
from isolora.training.evaluator import Evaluator

STUDY = {
    "name": "family",
    "base": {
        "data": {"train_examples": 6000, "eval_examples": 300},
        "training": {"tokens": 1e5, "batch_tokens": 512, "learning_rate": 5e-3, "evaluate_from": 1e5},
    },
    "grid": {"model": sorted(packaged_models()), "seed": [0, 1]},
    "stack": 8,
}


def main() -> None:
    study = parse(StudyConfig, STUDY)
    with tempfile.TemporaryDirectory() as folder:
        points = run_study(study, Path(folder), workers=2, quiet=True).points()
    rows = {}
    for config in grid_runs(study):
        own = [point for point in points if point["model"] == config.model]
        rows[config.model] = {
            "body_parameters": own[0]["body_parameters"],
            "loss_before": bare_loss(config),
            "loss_after": [point["loss"] for point in own],
        }
    for name, row in sorted(rows.items(), key=lambda item: item[1]["body_parameters"]):
        print(name, row)
    record("family", {"tokens": STUDY["base"]["training"]["tokens"], "rank": 8, "learning_rate": 5e-3, "models": rows})


def bare_loss(config: RunConfig) -> float:
    """Held-out loss of the base alone: a fresh LoRA adapter changes nothing."""
    with PreparedRun.load(config) as run:
        evaluator = Evaluator(config, run.base, run.attach([config]))
        return evaluator.losses(run.examples.held_out, [0])[0]


if __name__ == "__main__":
    main()
