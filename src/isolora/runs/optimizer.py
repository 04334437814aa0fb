"""The optimiser of one member: AdamW over flat buffers, clipping, a schedule, and an average of the weights."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isolora.config import TrainingConfig
from isolora.methods.base import ParameterGroup


class FlatGroup:
    """The tensors of one parameter group as views of one buffer, so that clipping, stepping, averaging are one operation each."""

    def __init__(self, group: ParameterGroup, training: TrainingConfig, only: Collection[Tensor] | None = None) -> None:
        self.tensors = group.parameters
        self.learning_rate_ratio = group.learning_rate_ratio * (training.head_learning_rate_ratio if group.heads else 1)
        self.shapes = [p.shape for p in self.tensors]
        with torch.no_grad():
            self.weights = nn.Parameter(torch.cat([p.flatten() for p in self.tensors]))
        self.weights.grad = torch.zeros_like(self.weights)
        self.average = self.weights.detach().clone()
        self.link(only)

    def link(self, only: Collection[Tensor] | None = None) -> None:
        """Make the tensors and their gradients views of the buffers, again where somebody has put others in their place.

        only: the tensors that a rehearsal will use; all others are left empty.
        """
        assert self.weights.grad is not None
        weights, gradients, start = self.weights.data, self.weights.grad, 0
        nothing = weights[:0]
        for p, shape in zip(self.tensors, self.shapes, strict=True):
            span = slice(start, start + shape.numel())
            if only is None or p in only:
                p.data, p.grad = weights[span].view(shape), gradients[span].view(shape)
            else:
                p.data, p.grad = nothing, None
            start = span.stop

    def exchange(self) -> None:
        """Swap raw and averaged weights in place."""
        kept = self.weights.data.clone()
        self.weights.data.copy_(self.average)
        self.average.copy_(kept)


class AveragedAdamW:
    """AdamW over a member's parameter groups, and a polynomial-decay average of their weights. only: see `FlatGroup.link`."""

    def __init__(
        self, groups: Sequence[ParameterGroup], training: TrainingConfig, only: Collection[Tensor] | None = None
    ) -> None:
        self.training = training
        self.groups = [FlatGroup(group, training, only) for group in groups]
        self.adamw = torch.optim.AdamW(
            [{"params": [group.weights]} for group in self.groups],
            lr=training.learning_rate,
            betas=(training.beta1, training.beta2),
            weight_decay=training.weight_decay,
            fused=True,
        )

    def step(self, rate_factor: float) -> None:
        """Clip and step. rate_factor: learning rate over its peak."""
        if self.training.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_([group.weights for group in self.groups], self.training.clip_norm)
        rate = self.training.learning_rate * rate_factor
        for group, settings in zip(self.groups, self.adamw.param_groups, strict=True):
            settings["lr"] = rate * group.learning_rate_ratio
        self.adamw.step()

    def finish_step(self, step: int) -> None:
        """Clear the gradients of step number `step` (from 1) and fold the new weights into the average."""
        self.adamw.zero_grad(set_to_none=False)
        for group in self.groups:
            group.average.lerp_(group.weights.data, averaging_weight(self.training.averaging, step))

    def link(self) -> None:
        for group in self.groups:
            group.link()

    def exchange(self) -> None:
        """Swap raw and averaged weights in place."""
        for group in self.groups:
            group.exchange()

    def state(self) -> dict[str, Tensor]:
        """Tensors that continue it exactly."""
        tensors: dict[str, Tensor] = {}
        for number, group in enumerate(self.groups):
            tensors[f"{number}.weights"], tensors[f"{number}.average"] = group.weights.data, group.average
            for key, value in self.adamw.state[group.weights].items():
                tensors[f"{number}.optimizer.{key}"] = value
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        for number, group in enumerate(self.groups):
            group.weights.data.copy_(tensors[f"{number}.weights"])
            group.average.copy_(tensors[f"{number}.average"])
            prefix = f"{number}.optimizer."
            self.adamw.state[group.weights] = {
                key.removeprefix(prefix): value.to(group.weights.device, copy=True)
                for key, value in tensors.items()
                if key.startswith(prefix)
            }

    def held_tensors(self) -> list[Tensor]:
        """All that it keeps between two steps, gradients included."""
        gradients: list[Any] = [group.weights.grad for group in self.groups if group.weights.grad is not None]
        return [*self.state().values(), *gradients]

    def bytes_held(self) -> dict[str, int]:
        """Bytes between two steps: of the trained weights, their gradients, the moments, the average."""
        weights = sum(group.weights.nbytes for group in self.groups)
        moments = sum(value.nbytes for state in self.adamw.state.values() for value in state.values())
        return {"adapter": weights, "gradients": weights, "optimiser": moments, "average": weights}


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
