"""Step time after a calibration: predicted and measured at shapes that were not calibrated, and over whole runs of the real loop.

For an idle machine: the shapes are timed in turns, the median of several rounds counts.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from record import record

from isolora import models
from isolora.config import RunConfig, parse
from isolora.cost import calibration
from isolora.cost.estimate import cost, typical
from isolora.cost.flops import TWO_CLASSES, attach_for_rehearsal, rehearse, task_batch
from isolora.cost.memory import one_step
from isolora.ledger import BatchShape
from isolora.runs.device import device
from isolora.runs.optimizer import AveragedAdamW
from isolora.training import train

RUNS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("nano-150k", {"name": "lora", "rank": 8}),
    ("nano-1m", {"name": "lora", "rank": 16}),
    ("nano-1m", {"name": "selective", "train": "layers", "layers": "last 1"}),
    ("nano-440k", {"name": "full"}),
)
SHAPES, ROUNDS, TOKENS = 12, 5, 60_000


def run_of(model: str, method: dict[str, Any]) -> RunConfig:
    return parse(RunConfig, {"model": model, "method": method, "data": {"eval_examples": 50}, "training": {"tokens": TOKENS}})


def other_shapes(config: RunConfig) -> list[BatchShape]:
    """Drawn over lengths and over micro-batches from a tenth of the run's tokens to all of them."""
    rng, task = np.random.default_rng(1), models.bound_task(config)
    calibrated = {(shape.rows, shape.length) for shape in calibration.steps(config, task)}
    shapes: list[BatchShape] = []
    while len(shapes) < SHAPES:
        length, tokens = int(rng.integers(12, 250)), config.training.batch_tokens * 10 ** rng.uniform(-1, 0)
        shape = typical(task, max(1, round(tokens / length)), length)
        if (shape.rows, shape.length) not in calibrated:
            shapes.append(shape)
    return shapes


def step_seconds(config: RunConfig, shapes: list[BatchShape]) -> list[float]:
    """Median over rounds, the first one left out."""
    task = models.bound_task(config, TWO_CLASSES)
    attached = attach_for_rehearsal(config, task, calibration.random_model(config, task).to(device()))
    optimizer = AveragedAdamW(attached.groups(0), config.training)
    batches = [task_batch(task, shape, device()) for shape in shapes]
    rounds = [
        [calibration.clock(lambda batch=batch: one_step(config, task, attached, optimizer, batch)) for batch in batches]
        for _ in range(ROUNDS + 1)
    ]
    return [statistics.median(column) for column in zip(*rounds[1:], strict=True)]


def compare(config: RunConfig, folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    rates = calibration.calibrate(config)
    calibration_seconds = time.perf_counter() - started
    price, shapes = rehearse(config), other_shapes(config)
    predicted = [rates.seconds(price.flops(shape), 1) for shape in shapes]
    measured = step_seconds(config, shapes)
    errors = [abs(one / other - 1) for one, other in zip(predicted, measured, strict=True)]
    whole = cost(config).duration
    took = train(config, folder, quiet=True)["seconds"]
    assert whole is not None
    return {
        "model": config.model,
        "method": config.method.model_dump(),
        "calibration_seconds": calibration_seconds,
        "calibration_largest_error": rates.largest_error,
        "median_relative_error": statistics.median(errors),
        "largest_relative_error": max(errors),
        "run_predicted_seconds": whole.seconds,
        "run_measured_seconds": took,
        "run_relative_error": whole.seconds / took - 1,
        "shapes": [
            {"rows": shape.rows, "length": shape.length, "predicted_seconds": one, "measured_seconds": other}
            for shape, one, other in zip(shapes, predicted, measured, strict=True)
        ],
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ISOLORA_CACHE"] = folder
        rows = []
        for number, run in enumerate(RUNS):
            rows.append(compare(run_of(*run), Path(folder) / str(number)))
            print(json.dumps({key: value for key, value in rows[-1].items() if key != "shapes"}))
    errors = [abs(s["predicted_seconds"] / s["measured_seconds"] - 1) for row in rows for s in row["shapes"]]
    measured = {"median_relative_error": statistics.median(errors), "largest_relative_error": max(errors), "shapes": len(errors)}
    record("time", {**measured, "runs": rows})


if __name__ == "__main__":
    main()
