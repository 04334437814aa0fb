"""A stack: K members on one frozen base, their rows side by side in each batch; K = 1 is the ordinary run.

Losses are summed over members, so gradients do not mix; learning rate, clipping, average, budget and divergence are per member.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from accelerate import Accelerator

from isolora.config import RunConfig
from isolora.json_types import JsonObject
from isolora.methods.base import Attached
from isolora.models import Base
from isolora.runs.batches import Indices, collate
from isolora.runs.member import Member
from isolora.runs.micro_batches import CPU_TOKENS
from isolora.runs.prepared import RunExamples
from isolora.store import DIVERGED
from isolora.tasks.base import Task
from isolora.training.ranks import ALONE, Ranks

CPU_STATES = 600_000
"""Most tokens times the model's width of one pass of several members on a CPU; beyond, a stack is slower than its members one by
one (docs/decisions/2026-12-01-refilled-places.md)."""

Form = Callable[[Sequence[RunConfig]], tuple[Attached, list[Member], list[int | None]]]
"""Runs -> their adapters on a base that gives up those it had, the members, and the predicted peaks of their memory."""


class Stack:
    """Members that are trained together. names: the runs' identities; steps: taken so far; memory_bytes: predicted peak of each
    run on its own, None where it cannot be predicted; form: makes members of other runs on the same base."""

    def __init__(
        self,
        base: Base,
        examples: RunExamples,
        attached: Attached,
        members: Sequence[Member],
        names: Sequence[str],
        accelerator: Accelerator,
        memory_bytes: Sequence[int | None] = (),
        ranks: Ranks = ALONE,
        form: Form | None = None,
    ) -> None:
        self.base, self.examples, self.attached, self.ranks, self.form = base, examples, attached, ranks, form
        self.members, self.names, self.accelerator = list(members), list(names), accelerator
        self.memory_bytes = list(memory_bytes) or [None] * len(self.members)
        self.units = self.task.units(examples.train)
        self.steps = 0
        self.together = self._members_a_pass()

    @property
    def task(self) -> Task:
        return self.examples.held_out.task

    @property
    def running(self) -> list[int]:
        """Numbers of the members that have not ended."""
        return [k for k, member in enumerate(self.members) if member.running]

    def step(self) -> None:
        """One optimiser step of every running member."""
        started = time.perf_counter()
        drawn = {k: self.members[k].stream.next() for k in self.running}
        losses = dict.fromkeys(drawn, 0.0)
        for part in range(max(self.members[k].accumulation for k in drawn)):
            for together in self._passes(list(drawn)):
                for k, loss in self._backward(drawn, part, together).items():
                    losses[k] += loss
        losses = self._over_ranks(losses)
        for k, indices in drawn.items():
            rate = self.members[k].rate_factor  # by the budget spent before this step
            self.consume(k, indices, losses[k])
            if self.members[k].running:
                self.members[k].optimizer.step(rate)
                self.finish_step(k)
        self.steps += 1
        self._share_seconds(drawn, time.perf_counter() - started)

    def _members_a_pass(self) -> int:
        """How many members go through the base together: all on an accelerator, on a CPU as many as its cache carries."""
        if self.accelerator.device.type != "cpu":
            return len(self.members)
        first, width = self.members[0], int(self.base.model.get_input_embeddings().weight.shape[-1])
        return max(1, min(CPU_TOKENS, CPU_STATES // width) * first.accumulation // first.training.batch_tokens)

    def _passes(self, members: list[int]) -> Iterator[list[int]]:
        """Members that go through the base together."""
        return (members[start : start + self.together] for start in range(0, len(members), self.together))

    def _backward(self, drawn: dict[int, Indices], part: int, together: Sequence[int]) -> dict[int, float]:
        """Forward and backward of one micro-batch of these members; returns each one's summed loss."""
        parts = {k: self.members[k].micro_batches(drawn[k]) for k in together}
        shared = {k: self.ranks.part_of(split[part]) for k, split in parts.items() if part < len(split)}
        present, parts_of = {k: rows for k, (rows, _) in shared.items()}, {k: counted for k, (_, counted) in shared.items()}
        if not present:
            return {}
        weights = [np.full(len(rows), parts_of[k] / self.units[drawn[k]].sum()) for k, rows in present.items()]
        rows, counts = np.concatenate(list(present.values())), {k: len(rows) for k, rows in present.items()}
        batch = collate(self.examples.train, rows, np.concatenate(weights), self.base.pad_id)
        with self.attached.rows_of(counts):
            with self.accelerator.autocast():
                loss = self.task.loss(self.attached.model, batch.to(self.accelerator.device))
                extra = self.attached.extra_loss()
            counted = sum(parts_of[k] * count for k, count in counts.items())
            share = counted / sum(map(len, drawn.values()))  # over all micro-batches and processes, a regulariser counts once
            self.accelerator.backward(loss.objective if extra is None else loss.objective + share * extra)
        stops = np.cumsum(list(counts.values()))
        sums = {k: float(loss.row_losses[stop - counts[k] : stop].sum()) for k, stop in zip(counts, stops, strict=True)}
        return {k: parts_of[k] * loss for k, loss in sums.items()}

    def _over_ranks(self, losses: dict[int, float]) -> dict[int, float]:
        """Each member's loss, and its gradients in place, summed over the processes that share its rows."""
        for k in losses:
            for group in self.members[k].optimizer.groups:
                assert group.weights.grad is not None
                self.ranks.add_up(group.weights.grad)
        return dict(zip(losses, self.ranks.total(np.array(list(losses.values()))).tolist(), strict=True))

    def finish_step(self, k: int) -> None:
        """Count and average a step that the member's optimiser has taken; the method sees it while its gradients are there."""
        self.members[k].finish_step(lambda spent: self.attached.after_step(k, spent))

    def consume(self, k: int, indices: Indices, loss: float) -> None:
        """Count one member's step and its summed loss; a loss that is not finite ends the member."""
        member = self.members[k]
        member.consume(indices)
        member.progress.loss_sum += loss
        member.progress.loss_count += int(self.units[indices].sum())
        if not math.isfinite(loss):
            member.progress.state = DIVERGED

    @property
    def can_change(self) -> bool:
        """Whether others can join: what a method keeps beside its members' weights would be lost."""
        return self.form is not None and not self.attached.state()

    def refill(self, joining: Mapping[str, RunConfig]) -> None:
        """Runs, by their identities, take the places of the members that have ended. Those that go on keep all that they have:
        weights, moments, averages, their place in the data, the draws of their dropout."""
        assert self.form is not None
        staying = self.running
        names, kept = [self.names[k] for k in staying], [self.members[k] for k in staying]
        draws = [{name: each.get_state() for name, each in _own(self.attached.generators(), k).items()} for k in staying]
        configs = [*(member.config for member in kept), *joining.values()]
        self.attached, self.members, self.memory_bytes = self.form(configs)
        self.names = [*names, *joining]
        for k, (member, drawn) in enumerate(zip(kept, draws, strict=True)):
            self.members[k].restore(*member.state())
            for name, generator in _own(self.attached.generators(), k).items():
                generator.set_state(drawn[name])
        self.attached.train(True)

    def _share_seconds(self, drawn: dict[int, Indices], seconds: float) -> None:
        """Split a joint step's time by the members' tokens."""
        tokens = {k: int(self.examples.train.sizes[indices].sum()) for k, indices in drawn.items()}
        for k, count in tokens.items():
            self.members[k].progress.seconds += seconds * count / sum(tokens.values())

    @contextmanager
    def averaged(self, which: Sequence[int]) -> Iterator[None]:
        """Within the context these members bear their averaged weights, and nothing trains."""
        self.attached.train(False)
        for k in which:
            self.members[k].optimizer.exchange()
        try:
            yield
        finally:
            for k in which:
                self.members[k].optimizer.exchange()
            self.attached.train(True)

    def state(self) -> tuple[dict[str, torch.Tensor], JsonObject]:
        """Tensors and JSON values from which every member goes on exactly."""
        tensors: dict[str, torch.Tensor] = {"random.torch": torch.get_rng_state()}
        for name, generator in self.attached.generators().items():
            tensors[f"random.{name}"] = generator.get_state()
        tensors |= {f"method.{name}": tensor for name, tensor in self.attached.state().items()}
        progress = []
        for k, member in enumerate(self.members):
            own, counters = member.state()
            tensors |= {f"{k}.{key}": value for key, value in own.items()}
            progress.append(counters)
        return tensors, {"steps": self.steps, "names": self.names, "progress": progress}

    def restore(self, tensors: dict[str, torch.Tensor], state: JsonObject) -> None:
        """Go on from what `state` gave."""
        self.steps = state["steps"]
        torch.set_rng_state(tensors["random.torch"])
        for name, generator in self.attached.generators().items():
            generator.set_state(tensors[f"random.{name}"])
        self.attached.load_state(_below(tensors, "method."))
        for k, member in enumerate(self.members):
            member.restore(_below(tensors, f"{k}."), state["progress"][k])


def _own(generators: Mapping[str, torch.Generator], member: int) -> dict[str, torch.Generator]:
    """A member's own generators, by their names without its number."""
    named = {name.rpartition("."): generator for name, generator in generators.items()}
    return {name: generator for (name, _, number), generator in named.items() if number == str(member)}


def _below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
