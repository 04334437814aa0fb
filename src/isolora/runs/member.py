"""One member of a stack: its place in its data, its budget, what it has consumed, and its optimiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from torch import Tensor

from isolora.config import RunConfig
from isolora.json_types import JsonObject
from isolora.ledger import Ledger
from isolora.methods.base import ParameterGroup
from isolora.runs.batches import Indices, Stream
from isolora.runs.micro_batches import accumulation, micro_batches
from isolora.runs.optimizer import AveragedAdamW, rate_factor
from isolora.runs.progress import Progress
from isolora.tasks.base import Examples


class Member:
    """A run inside a stack. ledger: what steps of its method on its base cost."""

    def __init__(self, config: RunConfig, groups: list[ParameterGroup], examples: Examples, ledger: Ledger) -> None:
        self.config, self.training, self.ledger = config, config.training, ledger
        self.examples, self.accumulation = examples, accumulation(config.training)
        self.stream = Stream(examples.sequence_lengths, config.training.batch_tokens, config.seed)
        self.progress = Progress(next_evaluation=config.training.evaluate_from)
        self.optimizer = AveragedAdamW(groups, config.training)

    @property
    def running(self) -> bool:
        return self.progress.state == "RUNNING"

    def spent(self) -> float:
        """Share of the budget that is used up."""
        return self.progress.spent(self.training, self.stream)

    def micro_batches(self, indices: Indices) -> list[Indices]:
        """The examples of a step as they go through the model one after the other."""
        return micro_batches(indices, self.accumulation)

    def consume(self, indices: Indices) -> None:
        """Count one step over examples taken from the stream."""
        self.progress.consume(self.examples, self.micro_batches(indices), self.stream, self.ledger)

    @property
    def rate_factor(self) -> float:
        """Learning rate of the next step over its peak."""
        return rate_factor(self.training, self.progress.step, self.spent())

    def finish_step(self, after_step: Callable[[float], None]) -> None:
        """Count the step that the optimiser has taken and average the new weights. after_step: called with the share of the
        budget spent while the gradients are still there."""
        self.progress.step += 1
        after_step(self.spent())
        self.optimizer.finish_step(self.progress.step)

    def state(self) -> tuple[dict[str, Tensor], JsonObject]:
        """Tensors and counters that continue this member exactly."""
        return self.optimizer.state(), asdict(self.progress)

    def restore(self, tensors: dict[str, Tensor], progress: JsonObject) -> None:
        self.progress = Progress(**progress)
        self.stream.seek(self.progress.epoch, self.progress.index)
        self.optimizer.restore(tensors)
