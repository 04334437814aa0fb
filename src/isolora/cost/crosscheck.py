"""Predicted beside measured: what a run said it would take, and what it took. A warning is one line on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from isolora import registry
from isolora.config import RunConfig
from isolora.cost import rates as speed
from isolora.cost.memory import peak
from isolora.cost.step_profiler import Witness
from isolora.ledger import Shape
from isolora.runs.batches import Indices
from isolora.runs.progress import plan
from isolora.store import DONE

if TYPE_CHECKING:
    from isolora.training.loop import Stack

LIMITS = {"flops": 0.01, "step_flops": 0.01, "step_memory_bytes": 0.01, "seconds": 0.15}
"""Largest relative difference that passes in silence. flops: of the whole run, as planned and as booked; step_flops: of one step,
as priced and as counted operator by operator; step_memory_bytes: what that step takes beside what is held between steps; seconds:
of the whole run, where the machine is calibrated, which promises no more."""
SMALL_BYTES = 2**20
"""Memory that may be one kernel's work space or one batch's token ids passes in silence."""

Pair = dict[str, float]
"""predicted, measured, relative_error."""


class Checks:
    """Of one stack. Its second step is watched: in the first one the optimiser's moments are still to come."""

    def __init__(self, stack: Stack, configs: Sequence[RunConfig], memory: bool) -> None:
        """memory: also rehearse the step's memory, a second or more, for a run trained alone."""
        alone = len(configs) == 1 and not registry.load("method", configs[0].method.name).looks_at_weights
        self.stack, self.configs, self.memory = stack, configs, memory and alone
        self.of_step: dict[str, Pair] = {}

    @contextmanager
    def watching(self, stack: Stack) -> Iterator[None]:
        """Around a step of the stack."""
        if self.of_step or stack.steps == 0:
            yield
            return
        running = [k for k, member in enumerate(stack.members) if member.running]
        with Witness(stack) as witness:
            yield
        priced = sum(stack.members[k].price.flops(shape, first_pass=False).total for k, shape in self._shapes(running))
        self.of_step["step_flops"] = pair(priced, witness.flops)
        if self.memory:
            self._compare_memory(witness.bytes)

    def _compare_memory(self, taken: int) -> None:
        try:
            self.of_step["step_memory_bytes"] = pair(self._rehearsed(), taken)
        except Exception as failure:  # whatever a method does to tensors without values: a check ends no run
            reason = str(failure).split("\n")[0][:160]
            print(f"isolora: step memory bytes: measured {taken:,}, not predicted: {reason}", file=sys.stderr)

    def _rows(self, k: int) -> list[Indices]:
        """A member's micro-batches of the step just done."""
        member = self.stack.members[k]
        return [rows for rows in np.array_split(member.stream.last, member.training.accumulation) if len(rows)]

    def _shapes(self, running: Sequence[int]) -> Iterator[tuple[int, Shape]]:
        """(member, its part of a micro-batch), padded to what the members' rows share."""
        examples, rows = self.stack.train_examples, {k: self._rows(k) for k in running}
        for part in range(max(map(len, rows.values()))):
            present = {k: parts[part] for k, parts in rows.items() if part < len(parts)}
            joint = Shape.of(examples, np.concatenate(list(present.values())))
            for k, own in present.items():
                yield k, replace(Shape.of(examples, own), length=joint.length, second=joint.second)

    def _rehearsed(self) -> int:
        """Of the largest micro-batch of the step just done."""
        examples, device = self.stack.train_examples, self.stack.accelerator.device.type
        shapes = {Shape.of(examples, rows): rows for rows in self._rows(0)}
        largest = max(shapes, key=lambda shape: (shape.tokens, shape.labels))
        rows, sequences = shapes[largest], [part for part in (examples, examples.second) if part is not None]
        padded = any(len(set(part.lengths[rows])) > 1 for part in sequences)
        memory = peak(self.configs[0], largest, self.stack.task.labels, device, padded)
        return memory.activations + memory.logits

    def of(self, k: int) -> dict[str, Pair]:
        """All that can be both predicted and measured of a member that has reached its end; warns where the two part."""
        config, member = self.configs[k], self.stack.members[k]
        if member.progress.state != DONE:
            return {}
        planned = plan(config, self.stack.train_examples, member.price)
        found = {"flops": pair(planned.flops.total, member.progress.flops), **self.of_step}
        rates = speed.stored(config) if len(self.configs) == 1 else None
        if rates is not None:
            found["seconds"] = pair(rates.seconds(planned.flops, planned.micro_batches), member.progress.seconds)
        for name, values in found.items():
            slack = SMALL_BYTES if name == "step_memory_bytes" else 0
            if abs(values["predicted"] - values["measured"]) > max(slack, LIMITS[name] * values["measured"]):
                print(f"isolora: {words(name, values)}, more than the {LIMITS[name]:.0%} expected", file=sys.stderr)
        return found


def pair(predicted: float, measured: float) -> Pair:
    return {"predicted": predicted, "measured": measured, "relative_error": predicted / measured - 1}


def words(name: str, values: Pair) -> str:
    """One line for a person."""
    sizes = f"predicted {values['predicted']:.6g}, measured {values['measured']:.6g}"
    return f"{name.replace('_', ' ')}: {sizes}, {abs(values['relative_error']):.2%} apart"
