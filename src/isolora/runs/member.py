"""One member of a stack: its weights in flat buffers, its optimiser, its average, its place in its data, its budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from isolora.config import RunConfig, TrainingConfig
from isolora.ledger import Ledger
from isolora.methods.base import ParameterGroup
from isolora.runs.batches import Stream
from isolora.runs.progress import Account, Progress


class FlatGroup:
    """The tensors of one parameter group as views of one buffer, so that clipping, stepping, averaging are one operation each."""

    def __init__(self, group: ParameterGroup, training: TrainingConfig) -> None:
        self.tensors = group.parameters
        self.learning_rate_ratio = group.learning_rate_ratio * (training.head_learning_rate_ratio if group.heads else 1)
        self.weights = nn.Parameter(torch.cat([p.detach().flatten() for p in self.tensors]))
        self.weights.grad = torch.zeros_like(self.weights)
        self.average = self.weights.detach().clone()
        self.link()

    def link(self) -> None:
        """Make the tensors and their gradients views of the buffers, again where somebody has put others in their place."""
        assert self.weights.grad is not None
        start = 0
        for p in self.tensors:
            span = slice(start, start + p.numel())
            p.data = self.weights.data[span].view_as(p)
            p.grad = self.weights.grad[span].view_as(p)
            start = span.stop

    def exchange(self) -> None:
        """Swap raw and averaged weights in place."""
        kept = self.weights.data.clone()
        self.weights.data.copy_(self.average)
        self.average.copy_(kept)


class Member(Account):
    """A run inside a stack: its account, its weights and their optimiser."""

    def __init__(self, config: RunConfig, groups: list[ParameterGroup], stream: Stream, price: Ledger) -> None:
        super().__init__(config, stream, price)
        self.groups = [FlatGroup(group, config.training) for group in groups]
        self.optimizer = torch.optim.AdamW(
            [{"params": [group.weights]} for group in self.groups],
            lr=self.training.learning_rate,
            betas=(self.training.beta1, self.training.beta2),
            weight_decay=self.training.weight_decay,
            fused=True,
        )

    @property
    def running(self) -> bool:
        return self.progress.state == "RUNNING"

    def update(self, spent: float, after_step: Callable[[], None] = lambda: None) -> None:
        """Clip, step and settle. spent: share of the budget used up before this step."""
        if self.training.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_([group.weights for group in self.groups], self.training.clip_norm)
        rate = self.training.learning_rate * rate_factor(self.training, self.progress.step, spent)
        for group, settings in zip(self.groups, self.optimizer.param_groups, strict=True):
            settings["lr"] = rate * group.learning_rate_ratio
        self.optimizer.step()
        self.settle(after_step)

    def settle(self, after_step: Callable[[], None]) -> None:
        """Count the step that the optimiser has taken and fold the new weights into the average; after_step: called while the
        gradients are still there."""
        self.progress.step += 1
        after_step()
        self.optimizer.zero_grad(set_to_none=False)
        for group in self.groups:
            group.average.lerp_(group.weights.data, averaging_weight(self.training.averaging, self.progress.step))

    def link(self) -> None:
        for group in self.groups:
            group.link()

    def exchange(self) -> None:
        for group in self.groups:
            group.exchange()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and counters that continue this member exactly."""
        tensors: dict[str, Tensor] = {}
        for number, group in enumerate(self.groups):
            tensors[f"{number}.weights"], tensors[f"{number}.average"] = group.weights.data, group.average
            for key, value in self.optimizer.state[group.weights].items():
                tensors[f"{number}.optimizer.{key}"] = value
        return tensors, asdict(self.progress)

    def restore(self, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
        self.progress = Progress(**progress)
        self.stream.seek(self.progress.epoch, self.progress.index)
        for number, group in enumerate(self.groups):
            group.weights.data.copy_(tensors[f"{number}.weights"])
            group.average.copy_(tensors[f"{number}.average"])
            prefix = f"{number}.optimizer."
            self.optimizer.state[group.weights] = {
                key.removeprefix(prefix): value.to(group.weights.device, copy=True)
                for key, value in tensors.items()
                if key.startswith(prefix)
            }


def rate_factor(training: TrainingConfig, step: int, spent: float) -> float:
    """Learning rate over its peak, before step number `step` (from 0), with a share `spent` of the budget used."""
    if step < training.warmup_steps:
        return (step + 1) / training.warmup_steps
    if training.schedule == "linear":
        return max(0.0, 1 - spent)
    if training.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, spent)))
    return 1.0


def averaging_weight(exponent: float, step: int) -> float:
    """Polynomial-decay averaging (Shamir and Zhang 1212.1824): a window that stays a fixed share of the run, however long."""
    return (exponent + 1) / (step + exponent)
