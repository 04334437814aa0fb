"""Cost cross-check: what a run was predicted to take beside what it took. A warning is one line on standard error.

An observer of the loop, which stands above; it sees the stack and no more.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from isolora import registry
from isolora.config import RunConfig
from isolora.cost import step_rates
from isolora.cost.memory import kept_peak
from isolora.cost.step_profiler import StepProfiler
from isolora.ledger import BatchShape
from isolora.runs.batches import Indices
from isolora.runs.observer import Observer
from isolora.runs.progress import dry_run
from isolora.store import DONE

if TYPE_CHECKING:
    from isolora.training.stack import Stack

LIMITS = {"flops": 0.01, "step_flops": 0.01, "step_memory_bytes": 0.01, "seconds": 0.15}
"""Largest relative difference that passes in silence. flops: of the whole run, as planned and as counted; step_flops: of one
step, by the ledger and operator by operator; step_memory_bytes: what that step takes beside what is held between steps; seconds:
of the whole run, where the machine is calibrated, which promises no more."""
SMALL_BYTES = 2**20
"""Memory that may be one kernel's work space or one batch's token ids passes in silence."""

Pair = dict[str, float]
"""predicted, measured, relative_error."""


class CrossCheck(Observer):
    """Of one stack. Its second step is profiled: in the first one the optimiser's moments are still to come."""

    def __init__(self, configs: Sequence[RunConfig], memory: bool) -> None:
        """memory: also rehearse the step's memory, a second or more, for a run trained alone."""
        alone = len(configs) == 1 and not registry.load_plug_in("method", configs[0].method.name).needs_weights
        self.configs, self.memory = configs, memory and alone
        self.of_step: dict[str, Pair] = {}

    @contextmanager
    def around_step(self, stack: Stack) -> Iterator[None]:
        if self.of_step or stack.steps == 0:
            yield
            return
        running = stack.running
        with StepProfiler(stack) as profiler:
            yield
        by_ledger = sum(stack.members[k].ledger.flops(shape, first_pass=False).total for k, shape in _shapes(stack, running))
        self.of_step["step_flops"] = pair(by_ledger, profiler.flops)
        if self.memory:
            self._compare_memory(stack, profiler.bytes)

    def _compare_memory(self, stack: Stack, measured: int) -> None:
        try:
            self.of_step["step_memory_bytes"] = pair(_rehearsed_bytes(stack, self.configs[0]), measured)
        except Exception as failure:  # whatever a method does to tensors without values: a check ends no run
            reason = str(failure).split("\n")[0][:160]
            print(f"isolora: step memory bytes: measured {measured:,}, not predicted: {reason}", file=sys.stderr)

    def of(self, stack: Stack, k: int) -> dict[str, Pair]:
        """All that can be both predicted and measured of a member that has reached its end; warns where the two part."""
        member = stack.members[k]
        if member.progress.state != DONE:
            return {}
        planned = dry_run(member.config, stack.examples, member.ledger)
        found = {"flops": pair(planned.flops.total, member.progress.flops), **self.of_step}
        speed = step_rates.stored(member.config) if len(self.configs) == 1 else None
        if speed is not None:
            found["seconds"] = pair(speed.seconds(planned.flops, planned.micro_batches), member.progress.seconds)
        for name, values in found.items():
            slack = SMALL_BYTES if name == "step_memory_bytes" else 0
            if abs(values["predicted"] - values["measured"]) > max(slack, LIMITS[name] * values["measured"]):
                print(f"isolora: {comparison(name, values)}, more than the {LIMITS[name]:.0%} expected", file=sys.stderr)
        return found


def _shapes(stack: Stack, running: Sequence[int]) -> Iterator[tuple[int, BatchShape]]:
    """(member, its part of a micro-batch) of the step just done, padded to what the members' rows share."""
    examples, rows = stack.examples.train, {k: _micro_batches(stack, k) for k in running}
    for part in range(max(map(len, rows.values()))):
        present = {k: parts[part] for k, parts in rows.items() if part < len(parts)}
        joint = BatchShape.of(examples, np.concatenate(list(present.values())))
        for k, own in present.items():
            yield k, replace(BatchShape.of(examples, own), length=joint.length, second=joint.second)


def _micro_batches(stack: Stack, k: int) -> list[Indices]:
    """Those of a member's step just done."""
    return stack.members[k].micro_batches(stack.members[k].stream.last)


def _rehearsed_bytes(stack: Stack, config: RunConfig) -> int:
    """Memory of the largest micro-batch of the step just done."""
    examples, device = stack.examples.train, stack.accelerator.device.type
    shapes = {BatchShape.of(examples, rows): rows for rows in _micro_batches(stack, 0)}
    largest = max(shapes, key=lambda shape: (shape.tokens, shape.labels))
    rows, sequences = shapes[largest], [part for part in (examples, examples.second) if part is not None]
    padded = any(len(set(part.lengths[rows])) > 1 for part in sequences)
    memory = kept_peak(config, largest, stack.task.labels, device, padded)
    return memory.activations + memory.logits


def pair(predicted: float, measured: float) -> Pair:
    return {"predicted": predicted, "measured": measured, "relative_error": predicted / measured - 1}


def comparison(name: str, values: Pair) -> str:
    """One line for a person."""
    sizes = f"predicted {values['predicted']:.6g}, measured {values['measured']:.6g}"
    return f"{name.replace('_', ' ')}: {sizes}, {abs(values['relative_error']):.2%} apart"
