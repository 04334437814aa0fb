"""What a run consumes, step by step: tokens, padding, passes, FLOPs; the loop books it as it trains, `cost` beforehand."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from isolora.config import RunConfig
from isolora.ledger import Flops, Ledger, Shape
from isolora.runs.batches import Indices, Stream
from isolora.tasks.base import Examples


@dataclass
class Progress:
    """What a member has consumed so far; saved with every checkpoint."""

    step: int = 0
    tokens: int = 0
    padding_tokens: int = 0
    unique_tokens: int = 0
    unique_examples: int = 0
    flops: float = 0.0
    flops_table: list[list[float]] = field(default_factory=lambda: Flops().table.tolist())  # [phases, groups]
    seconds: float = 0.0
    epoch: int = 0
    index: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    next_evaluation: float = 0.0
    last_loss: float = math.nan
    metrics: dict[str, float] = field(default_factory=dict)
    forgotten: dict[str, float] = field(default_factory=dict)
    state: str = "RUNNING"

    @property
    def booked(self) -> Flops:
        """The FLOPs so far, by phase and group."""
        return Flops(np.array(self.flops_table))


class Account:
    """A run's budget and what is left of it. `price` is the ledger of its method on its base."""

    def __init__(self, config: RunConfig, stream: Stream, price: Ledger) -> None:
        self.config, self.training = config, config.training
        self.stream, self.price = stream, price
        self.progress = Progress(next_evaluation=self.training.evaluate_from)

    def spent(self) -> float:
        """Share of the budget that is used up."""
        unit, amount = self.training.budget
        if unit == "epochs":
            return (self.progress.epoch + self.progress.index / self.stream.batches) / amount
        return {"tokens": self.progress.tokens, "steps": self.progress.step, "flops": self.progress.flops}[unit] / amount

    def book(self, examples: Examples, indices: Indices) -> Flops:
        """Account for one optimiser step over the examples taken from the stream; returns its FLOPs."""
        progress = self.progress
        parts = [rows for rows in np.array_split(indices, self.training.accumulation) if len(rows)]
        tokens = int(examples.sizes[indices].sum())
        flops = Flops()
        for rows in parts:
            shape = Shape.of(examples, rows)
            progress.padding_tokens += shape.tokens - int(examples.sizes[rows].sum())
            flops += self.price.flops(shape, first_pass=self.stream.epoch == 0)
        progress.tokens += tokens
        progress.flops += flops.total
        progress.flops_table = (progress.flops_table + flops.table).tolist()
        progress.epoch, progress.index = self.stream.epoch, self.stream.index
        if self.stream.epoch == 0:
            progress.unique_tokens += tokens
            progress.unique_examples += len(indices)
        return flops


@dataclass(frozen=True)
class Plan:
    """A whole run on paper. progress: what it will have consumed; largest: its micro-batch of most tokens."""

    progress: Progress
    micro_batches: int
    largest: Shape

    @property
    def flops(self) -> Flops:
        return self.progress.booked


def plan(config: RunConfig, examples: Examples, price: Ledger) -> Plan:
    """Draw the very batches that the run will draw."""
    account = Account(config, Stream(examples.sizes, config.training.batch_tokens, config.seed), price)
    shapes: list[Shape] = []
    while account.spent() < 1:
        indices = account.stream.next()
        account.book(examples, indices)
        account.progress.step += 1
        shapes += [Shape.of(examples, rows) for rows in np.array_split(indices, config.training.accumulation) if len(rows)]
    return Plan(account.progress, len(shapes), max(shapes, key=lambda shape: shape.tokens))
