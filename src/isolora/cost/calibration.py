"""Calibration: some steps of a few shapes are timed, so that others need not be. Takes seconds for a small model."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from isolora import models, registry
from isolora.config import RunConfig
from isolora.cost import step_rates as speed
from isolora.cost.estimate import typical, with_task
from isolora.cost.flops import TWO_CLASSES, attach_for_rehearsal, ledger_of, task_batch
from isolora.cost.memory import one_step
from isolora.cost.step_rates import Speed
from isolora.ledger import BatchShape
from isolora.runs.device import device
from isolora.runs.micro_batches import accumulation
from isolora.runs.optimizer import AveragedAdamW
from isolora.tasks.base import Task

PARTS = ((1, 1, 1), (1, 1 / 4, 1), (1, 1 / 4, 1 / 4), (1 / 4, 1 / 4, 1), (1 / 16, 1 / 8, 1))
"""Shares of a batch's tokens, of the longest sequence, and of the labels: they tell apart what a micro-batch, a token, a long
sequence and a logit cost."""
ROUNDS = 4
"""Passes over the shapes, the first one not counted; shapes take turns, so that a slow moment does not fall on one of them."""
SECONDS = 10.0
"""After this long no new round is begun, but for the first that counts."""


def calibrate(config: RunConfig) -> Speed:
    """Time the run's own steps here, keep the rates and return them.

    Weights are random unless the method wants them quantised. Raises ConfigError where the base cannot be built.
    """
    config = with_task(config)
    task = models.bound_task(config, TWO_CLASSES)
    ledger = ledger_of(config)
    attached = attach_for_rehearsal(config, task, random_model(config, task).to(device()))
    optimizer = AveragedAdamW(attached.groups(0), config.training)
    shapes = steps(config, task)
    batches = [task_batch(task, shape, device()) for shape in shapes]
    timed: list[list[float]] = [[] for _ in shapes]
    started = time.perf_counter()
    for round_number in range(ROUNDS):
        if round_number > 1 and time.perf_counter() - started > SECONDS:
            break
        for batch, seconds in zip(batches, timed, strict=True):
            seconds.append(clock(lambda batch=batch: one_step(config, task, attached, optimizer, batch)))  # type: ignore[misc]
    priced = [ledger.flops(shape, first_pass=False) for shape in shapes]
    found = speed.fit_rates(speed.machine(), priced, [median(seconds[1:]) for seconds in timed], product_rate(config))
    speed.store(config, found)
    return found


def steps(config: RunConfig, task: Task) -> list[BatchShape]:
    """Shapes to be timed, none of more tokens than the run's own micro-batches."""
    training = config.training
    tokens = training.batch_tokens // accumulation(training)
    longest = min(config.data.max_length or tokens, models.positions(models.load_architecture(config)), tokens)
    shapes = []
    for share, part, labelled in PARTS:
        length = max(2, int(longest * part) // (2 if task.second else 1))
        rows = max(1, int(tokens * share) // (length * (2 if task.second else 1)))
        full = typical(task, rows, length)
        labels = full.labels if task.labels_per_row else rows * max(2, int(full.labels * labelled) // rows)
        shapes.append(BatchShape(full.rows, full.length, labels, full.second))
    return shapes


def clock(act: Callable[[], object]) -> float:
    """Seconds that it takes, work on a GPU included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    act()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def product_rate(config: RunConfig) -> float:
    """FLOP/s of one large matrix product in the run's precision, the best of several."""
    width = 8192 if device() == "cuda" else 1024
    square = torch.ones(width, width, device=device(), dtype=getattr(torch, config.training.precision))
    return 2.0 * width**3 / min(clock(lambda: square @ square) for _ in range(6))


def random_model(config: RunConfig, task: Task) -> Any:
    """Random weights of the base's shape; the real ones where the method changes how they are stored."""
    import transformers

    method = registry.load_plug_in("method", config.method.name)
    if method.model_options(method.settings(config.method.fields())):
        return models.load_base(config, task).model
    architecture = models.load_architecture(config, task)
    model = getattr(transformers, task.auto_class(architecture)).from_config(architecture, dtype=torch.float32).eval()
    models.cast_base(model, config, task)
    models.fuse(model)
    models.narrow_last_layer(model)
    return model
