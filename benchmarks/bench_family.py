"""Is bigger better? Every nano model before and after adaptation, on the same texts and tokens, at its best learning rate."""

from __future__ import annotations

import tempfile
from pathlib import Path

from record import record

from isolora.config import RunConfig, StudyConfig, parse
from isolora.models import packaged
from isolora.registry import load
from isolora.study import run_study
from isolora.study.design import grid_runs
from isolora.training.held_out import mean_losses
from isolora.training.prepare import prepare

STUDY = {
    "name": "family",
    "base": {"data": {"train_examples": 6000, "eval_examples": 300}, "training": {"tokens": 2e5, "batch_tokens": 2048}},
    "grid": {"model": sorted(packaged()), "method.rank": [8], "training.learning_rate": [5e-3, 1e-2, 2e-2], "seed": [0, 1]},
    "stack": 8,
}


def main() -> None:
    study = parse(StudyConfig, STUDY)
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        points = run_study(study, Path(folder)).points()
    for config in grid_runs(study)[:: len(STUDY["grid"]["training.learning_rate"]) * len(STUDY["grid"]["seed"])]:
        own = [point for point in points if point["model"] == config.model]
        end = max(point["tokens"] for point in own)
        last = [point for point in own if point["tokens"] >= 0.95 * end]
        rates = {point["learning_rate"] for point in last}
        means = {rate: sum(p["loss"] for p in last if p["learning_rate"] == rate) / len(study.grid["seed"]) for rate in rates}
        best = min(means, key=lambda rate: means[rate])
        rows[config.model] = {
            "body_parameters": own[0]["body_parameters"],
            "loss_before": bare_loss(config),
            "loss_after": means[best],
            "learning_rate": best,
        }
        print(config.model, rows[config.model], flush=True)
    record("family", {"tokens": STUDY["base"]["training"]["tokens"], "rank": 8, "seeds": 2, "models": rows})


def bare_loss(config: RunConfig) -> float:
    """Held-out loss of the base alone: a fresh LoRA adapter changes nothing."""
    ready = prepare(config)
    method = load("method", "lora")
    attached = method.attach(ready.base.model, [method.settings({})], [0])
    loss = mean_losses(ready.task, attached, ready.held_out, [0], 4096, ready.base.tokenizer.pad_token_id)[0]
    attached.detach()
    return loss


if __name__ == "__main__":
    main()
