"""What a run takes, before it is run: its steps are drawn from its real data and priced by the ledger. Needs no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isolora import models
from isolora.config import RunConfig
from isolora.errors import ConfigError
from isolora.ledger import Flops, Ledger, Shape
from isolora.memory import peak_bytes
from isolora.rehearsal import rehearse
from isolora.tasks._base import Task
from isolora.training.account import Account
from isolora.training.batches import Stream
from isolora.training.prepare import examples_of, task_of


@dataclass(frozen=True)
class Cost:
    """FLOPs by phase, memory in bytes, tokens; of one step or of a whole run."""

    trainable_parameters: int
    all_parameters: int
    flops: Flops
    peak_memory_bytes: int
    tokens: int
    padding_tokens: int
    steps: int

    def to_json(self) -> dict[str, Any]:
        return {
            "trainable_parameters": self.trainable_parameters,
            "all_parameters": self.all_parameters,
            "trainable_share": self.trainable_parameters / self.all_parameters,
            "flops": self.flops.to_json(),
            "peak_memory_bytes": self.peak_memory_bytes,
            "tokens": self.tokens,
            "padding_tokens": self.padding_tokens,
            "steps": self.steps,
        }

    def __str__(self) -> str:
        share = 100 * self.trainable_parameters / self.all_parameters
        flops = self.flops
        parts = (("forward", flops.forward), ("to inputs", flops.backward_inputs), ("to weights", flops.backward_weights))
        return "\n".join(
            [
                f"trainable parameters  {self.trainable_parameters:,} of {self.all_parameters:,}, {share:.4f} %",
                f"FLOPs                 {flops.total:.4g} ({', '.join(f'{name} {value:.3g}' for name, value in parts)})",
                f"tokens                {self.tokens:,} and {self.padding_tokens:,} of padding in {self.steps:,} steps",
                f"peak memory           {self.peak_memory_bytes / 2**20:,.0f} MiB",
            ]
        )


def cost(config: RunConfig, shape: tuple[int, int] | None = None) -> Cost:
    """The cost of the whole run, or of one step of `shape` = (sequences, length) with every next token predicted."""
    price = rehearse(config)
    if shape is None:
        return _run_cost(config, price)
    rows, length = shape
    positions = models.positions(models.load_architecture(config))
    if length > positions:
        raise ConfigError(f"length: {length} exceeds the model's {positions} positions")
    step = typical(models.bound_task(config), rows, length)
    return _cost(price, price.flops(step), peak_bytes(config, price, step), step.tokens, 0, 1)


def typical(task: Task, rows: int, length: int) -> Shape:
    """A step of `rows` full sequences: every next token predicted, or as many labels as the task gives a row; a second sequence
    is as long as the first."""
    second = length if task.second else 0
    every = length if task.second == "source" else (length - 1) * (2 if task.second == "rejected" else 1)
    return Shape(rows, length, rows * (every if task.labels_per_row is None else task.labels_per_row), second)


def _run_cost(config: RunConfig, price: Ledger) -> Cost:
    """Draw the very batches that the run will draw."""
    task, positions = task_of(config), models.positions(models.load_architecture(config))
    train, _ = examples_of(config, task, models.load_tokenizer(config), positions)
    account = Account(config, Stream(train.sizes, config.training.batch_tokens, config.seed), price)
    flops, largest = Flops(), Shape(0, 0, 0)
    while account.spent() < 1:
        indices = account.stream.next()
        flops += account.book(train, indices)
        account.progress.step += 1
        parts = np.array_split(indices, config.training.accumulation)
        largest = max([largest, *(Shape.of(train, rows) for rows in parts if len(rows))], key=lambda shape: shape.tokens)
    progress, memory = account.progress, peak_bytes(config, price, largest)
    return _cost(price, flops, memory, progress.tokens, progress.padding_tokens, progress.step)


def _cost(price: Ledger, flops: Flops, memory: float, tokens: int, padding_tokens: int, steps: int) -> Cost:
    everything = price.model_parameters + price.trainable_parameters
    return Cost(price.trainable_parameters, everything, flops, int(memory), tokens, padding_tokens, steps)


def shape_of(words: Sequence[str]) -> tuple[tuple[int, int] | None, list[str]]:
    """Take `batch=B` and `length=L` out of a run's key=value words; both or neither."""
    given = dict(word.partition("=")[::2] for word in words if word.startswith(("batch=", "length=")))
    rest = [word for word in words if not word.startswith(("batch=", "length="))]
    if not given:
        return None, rest
    for name in ("batch", "length"):
        if not given.get(name, "").isdecimal() or int(given[name]) < 1:
            raise ConfigError(f"{name}: one step needs batch=B and length=L, both whole numbers of 1 or more")
    return (int(given["batch"]), int(given["length"])), rest
