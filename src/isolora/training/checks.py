"""Predicted beside measured: what a run said it would take, and what it took. A warning is one line on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from isolora import speed
from isolora.config import RunConfig
from isolora.ledger import Shape
from isolora.store import DONE
from isolora.training.account import plan
from isolora.training.batches import Indices
from isolora.training.lifetimes import Lifetimes
from isolora.training.loop import Stack
from isolora.training.memory import peak

LIMITS = {"flops": 0.01, "step_flops": 0.01, "step_memory_bytes": 0.01, "seconds": 0.15}
"""Largest relative difference that passes in silence. flops: of the whole run, as planned and as booked; step_flops: of one step,
as priced and as torch's own counter finds it; step_memory_bytes: what that step takes beside what is held between steps; seconds:
of the whole run, where the machine is calibrated, which promises no more."""
SMALL_BYTES = 2**20
"""Memory that may be one kernel's work space or one batch's token ids passes in silence."""

Pair = dict[str, float]
"""predicted, measured, relative_error."""


class Checks:
    """Of one stack. The products of its first step are counted, the memory of its second, when the optimiser's moments are there;
    torch's counter would keep tensors alive."""

    def __init__(self, stack: Stack, configs: Sequence[RunConfig], memory: bool) -> None:
        """memory: also rehearse a step's memory, a second or more, for a run trained alone."""
        self.stack, self.configs = stack, configs
        self.of_steps: dict[str, Pair] = {}
        self.waiting = [self._counted, *([self._followed] if memory and len(configs) == 1 else [])]

    def watching(self, stack: Stack) -> AbstractContextManager[None]:
        """Around a step of the stack."""
        return self.waiting.pop(0)() if self.waiting else nullcontext()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        members = self.stack.members
        running = [k for k, member in enumerate(members) if member.running]
        with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_TORCH) as counter:
            yield
        priced = sum(members[k].price.flops(shape, first_pass=False).total for k, shape in self._shapes(running))
        self.of_steps["step_flops"] = pair(priced, counter.get_total_flops())

    @contextmanager
    def _followed(self) -> Iterator[None]:
        with Growth(self.stack) as growth:
            yield
        self.of_steps["step_memory_bytes"] = pair(self._rehearsed(), growth.bytes)

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
        found = {"flops": pair(planned.flops.total, member.progress.flops), **self.of_steps}
        rates = speed.stored(config) if len(self.configs) == 1 else None
        if rates is not None:
            found["seconds"] = pair(rates.seconds(planned.flops, planned.micro_batches), member.progress.seconds)
        for name, values in found.items():
            slack = SMALL_BYTES if name == "step_memory_bytes" else 0
            if abs(values["predicted"] - values["measured"]) > max(slack, LIMITS[name] * values["measured"]):
                print(f"isolora: {words(name, values)}, more than the {LIMITS[name]:.0%} expected", file=sys.stderr)
        return found


class Growth(Lifetimes):
    """What a step takes beside what is held between steps: by the allocator on a GPU, storage by storage on a CPU."""

    def __init__(self, stack: Stack) -> None:
        self.on_gpu = stack.accelerator.device.type == "cuda"
        super().__init__("cpu")
        self.known = [*stack.attached.model.parameters(), *stack.attached.model.buffers()]
        for member in stack.members:
            self.known += member.state()[0].values()
            self.known += [group.weights.grad for group in member.groups if group.weights.grad is not None]

    def __enter__(self) -> Growth:
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            self.allocated = torch.cuda.memory_allocated()
        for tensor in self.known:
            self.follow(tensor)
        self.begin()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    @property
    def bytes(self) -> int:
        return torch.cuda.max_memory_allocated() - self.allocated if self.on_gpu else self.peak


def pair(predicted: float, measured: float) -> Pair:
    return {"predicted": predicted, "measured": measured, "relative_error": predicted / measured - 1}


def words(name: str, values: Pair) -> str:
    """One line for a person."""
    sizes = f"predicted {values['predicted']:.6g}, measured {values['measured']:.6g}"
    return f"{name.replace('_', ' ')}: {sizes}, {abs(values['relative_error']):.2%} apart"


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Scores and their use as weights, from the shapes [rows, heads, length, width] of the fused kernel's inputs."""
    rows, heads, length, width = query
    return int(2 * rows * heads * length * key[2] * (width + value[3]))


def _attention_backward(_: Any, query: Any, key: Any, value: Any, *__: Any, **___: Any) -> int:
    """Two products for each of the forward pass; what the kernel computes again is its own affair."""
    return 2 * _attention(query, key, value)


def _product_in_place(_: Any, left: Any, right: Any, **__: Any) -> int:
    return int(2 * left[0] * left[1] * right[1])


def _grouped_product(left: Any, right: Any, *_: Any, **__: Any) -> int:
    """Rows [rows, in] by experts [experts, in, out], or a gradient to these: every row meets one expert."""
    return int(2 * left[0] * left[1] * right[-1])


aten = torch.ops.aten
UNKNOWN_TO_TORCH: dict[Any, Any] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten.addmm_: _product_in_place,
    aten._grouped_mm: _grouped_product,
}
"""Operators that torch 2.13's counter takes for nothing."""
