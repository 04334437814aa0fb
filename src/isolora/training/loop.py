"""The loop: K members on one frozen base, their rows side by side in each batch; K = 1 is the ordinary run.

Losses are summed over members, so gradients do not mix; learning rate, clipping, average, budget and divergence are per member.
"""

from __future__ import annotations

import json
import math
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from isolora.methods.base import Attached, Span
from isolora.runs.batches import Indices, collate
from isolora.runs.member import Member
from isolora.runs.prepared import Prepared
from isolora.store import DIVERGED, DONE, PRUNED, Point
from isolora.training import checkpoint
from isolora.training.evaluator import mean_losses, scores, spans_of
from isolora.training.forgetting import text_loss


class Stack:
    """Trains members together. `names` are the runs' identities; points are handed to `write` at every evaluation, then one by
    one to `hopeless`, which ends a member by saying yes."""

    def __init__(
        self,
        ready: Prepared,
        attached: Attached,
        members: Sequence[Member],
        names: Sequence[str],
        pad_id: int,
        accelerator: Accelerator,
        write: Callable[[list[Point]], None],
        hopeless: Callable[[Point], bool] = lambda point: False,
    ) -> None:
        self.ready, self.attached, self.members, self.names = ready, attached, list(members), list(names)
        self.task, self.train_examples, self.held_out, self.pad_id = ready.task, ready.train, ready.held_out, pad_id
        self.units = self.task.units(ready.train)
        self.accelerator, self.write, self.hopeless = accelerator, write, hopeless
        self.steps = 0
        self.before: dict[str, float] = {}

    def train(
        self,
        checkpoints: Path,
        checkpoint_seconds: float,
        on_step: Callable[[Stack], None] = lambda stack: None,
        watching: Callable[[Stack], AbstractContextManager[Any]] = nullcontext,
        drive: Drive | None = None,
    ) -> None:
        """Run every member to the end of its budget, from the newest valid checkpoint when there is one.

        watching: opened around every step; drive: who takes the steps, this loop where absent.
        """
        self.resume(checkpoints)
        self.before = self.losses_before()
        self.attached.train(True)
        saved = time.perf_counter()

        def after() -> None:
            nonlocal saved
            evaluated = self.evaluate_due()
            if evaluated or time.perf_counter() - saved > checkpoint_seconds:
                self.save(checkpoints)
                saved = time.perf_counter()
            on_step(self)

        (drive or own_steps)(self, checkpoints, watching, after)
        self.attached.train(False)

    def step(self) -> None:
        """One optimiser step of every running member."""
        started = time.perf_counter()
        running = [k for k, member in enumerate(self.members) if member.running]
        taken = {k: self.members[k].stream.next() for k in running}
        losses = dict.fromkeys(running, 0.0)
        for part in range(max(self.members[k].training.accumulation for k in running)):
            for k, loss in self._backward(taken, part).items():
                losses[k] += loss
        for k in running:
            self._update(k, taken[k], losses[k])
        self.steps += 1
        self._share_seconds(taken, time.perf_counter() - started)

    def _backward(self, taken: dict[int, Indices], part: int) -> dict[int, float]:
        """Forward and backward of one micro-batch; returns each member's summed loss."""
        parts = {k: np.array_split(indices, self.members[k].training.accumulation) for k, indices in taken.items()}
        present = {k: split[part] for k, split in parts.items() if part < len(split) and len(split[part])}
        if not present:
            return {}
        weights = [np.full(len(rows), 1 / self.units[taken[k]].sum()) for k, rows in present.items()]
        batch = collate(self.train_examples, np.concatenate(list(present.values())), np.concatenate(weights), self.pad_id)
        spans = spans_of({k: len(rows) for k, rows in present.items()})
        with self._rows(spans):
            with self.accelerator.autocast():
                loss = self.task.loss(self.attached.model, batch.to(self.accelerator.device))
                extra = self.attached.extra_loss()
            share = len(batch.row_weights) / sum(map(len, taken.values()))  # over all micro-batches, a regulariser counts once
            self.accelerator.backward(loss.objective if extra is None else loss.objective + share * extra)
        return {k: float(loss.row_losses[start:stop].sum()) for k, start, stop in spans}

    def _rows(self, spans: Sequence[Span]) -> AbstractContextManager[None]:
        """A lone member owns every row, which suits layers that reshape the batch; a stack names its rows."""
        return self.attached.rows([(0, 0, -1)] if self.attached.members == 1 else spans)

    def _update(self, k: int, indices: Indices, loss: float) -> None:
        """Account for one member's step and update its weights."""
        member, spent = self.members[k], self.members[k].spent()
        self.book(k, indices, loss)
        if member.running:
            member.update(spent, lambda: self.attached.after_step(k, member.spent()))

    def book(self, k: int, indices: Indices, loss: float) -> None:
        """Account for one member's step; a loss that is not finite ends the member."""
        progress = self.members[k].progress
        self.members[k].book(self.train_examples, indices)
        progress.loss_sum += loss
        progress.loss_count += int(self.units[indices].sum())
        if not math.isfinite(loss):
            progress.state = DIVERGED

    def _share_seconds(self, taken: dict[int, Indices], seconds: float) -> None:
        """Split a joint step's time by the members' tokens."""
        tokens = {k: int(self.train_examples.sizes[indices].sum()) for k, indices in taken.items()}
        for k, count in tokens.items():
            self.members[k].progress.seconds += seconds * count / sum(tokens.values())

    def evaluate_due(self) -> bool:
        """Evaluate members that have reached their next mark or the end of their budget."""
        due = []
        for k, member in enumerate(self.members):
            finished = member.spent() >= 1
            if member.running and (finished or member.progress.tokens >= member.progress.next_evaluation):
                due.append(k)
        if not due:
            return False
        losses = self.evaluate(due)
        self.score(due, losses)
        points = [self._point(k, losses[k]) for k in due]
        for k in due:
            self._advance(self.members[k], losses[k])
        finite = {k: point for k, point in zip(due, points, strict=True) if math.isfinite(point.loss)}
        self.write(list(finite.values()))
        for k, point in finite.items():
            if self.hopeless(point) and self.members[k].running:
                self.members[k].progress.state = PRUNED
        return True

    def _advance(self, member: Member, loss: float) -> None:
        progress, ratio = member.progress, member.training.evaluate_ratio
        progress.last_loss = loss
        while progress.next_evaluation <= progress.tokens:
            progress.next_evaluation *= ratio
        progress.loss_sum, progress.loss_count = 0.0, 0
        if not math.isfinite(loss):
            progress.state = DIVERGED
        elif member.spent() >= 1:
            progress.state = DONE

    def evaluate(self, which: Sequence[int]) -> dict[int, float]:
        """Held-out loss in nats per labelled token of each member, on its averaged weights."""
        tokens = min(member.training.batch_tokens for member in self.members)
        with self._averaged(which), self.accelerator.autocast():
            return mean_losses(self.task, self.attached, self.held_out, which, tokens, self.pad_id)

    def score(self, which: Sequence[int], losses: Mapping[int, float]) -> None:
        """The task's measures of each member, on its averaged weights; slow ones only at the end of its budget."""
        wanted = [k for k in which if self.task.scored_at == "points" or self.members[k].spent() >= 1]
        tokens = min(member.training.batch_tokens for member in self.members)
        with self._averaged(wanted), self.accelerator.autocast():
            for k in wanted:
                self.members[k].progress.metrics = scores(self.ready, self.attached, k, tokens, self.pad_id, losses[k])
        with self._averaged(which), self.accelerator.autocast():
            for k in which:
                self.members[k].progress.forgotten = self.forgotten(k)

    def losses_before(self) -> dict[str, float]:
        """Loss of the bare base on each source of other texts, nats per token."""
        tokens = self.members[0].training.batch_tokens
        with self.accelerator.autocast():
            return {name: text_loss(self.attached, (), texts, tokens, self.pad_id) for name, texts in self.ready.others.items()}

    def forgotten(self, member: int) -> dict[str, float]:
        """How much worse the member's weights are on each source than the bare base, nats per token."""
        tokens, mine = self.members[member].training.batch_tokens, [(member, 0, -1)]
        return {
            name: text_loss(self.attached, mine, texts, tokens, self.pad_id) - self.before[name]
            for name, texts in self.ready.others.items()
        }

    @contextmanager
    def _averaged(self, which: Sequence[int]) -> Iterator[None]:
        self.attached.train(False)
        for k in which:
            self.members[k].exchange()
        try:
            yield
        finally:
            for k in which:
                self.members[k].exchange()
            self.attached.train(True)

    def _point(self, k: int, loss: float) -> Point:
        member, progress = self.members[k], self.members[k].progress
        return Point(
            run=self.names[k],
            step=progress.step,
            tokens=progress.tokens,
            padding_tokens=progress.padding_tokens,
            unique_tokens=progress.unique_tokens,
            unique_examples=progress.unique_examples,
            passes=progress.tokens / progress.unique_tokens,
            body_parameters=member.price.body_parameters,
            model_parameters=member.price.model_parameters,
            trainable_parameters=member.price.trainable_parameters,
            flops=progress.flops,
            seconds=progress.seconds,
            loss=loss,
            train_loss=progress.loss_sum / max(1, progress.loss_count),
            peak_memory_bytes=peak_memory_bytes(),
            metrics=json.dumps(progress.metrics | {f"forgotten.{name}": lost for name, lost in progress.forgotten.items()}),
            forgetting=statistics.fmean(progress.forgotten.values()) if progress.forgotten else None,
            flops_by_group=json.dumps(progress.booked.by_group()),
        )

    def save(self, folder: Path) -> None:
        """A checkpoint from which every member goes on exactly."""
        tensors: dict[str, torch.Tensor] = {"random.torch": torch.get_rng_state()}
        for name, generator in self.attached.generators().items():
            tensors[f"random.{name}"] = generator.get_state()
        tensors |= {f"method.{name}": tensor for name, tensor in self.attached.state().items()}
        progress = []
        for k, member in enumerate(self.members):
            own, counters = member.state()
            tensors |= {f"{k}.{key}": value for key, value in own.items()}
            progress.append(counters)
        kept = any(member.training.keep_checkpoints for member in self.members)
        checkpoint.save(folder, self.steps, tensors, {"steps": self.steps, "names": self.names, "progress": progress}, kept)

    def resume(self, folder: Path) -> None:
        found = checkpoint.newest(folder)
        if found is None or found[1]["names"] != self.names:
            return
        tensors, state = found
        self.steps = state["steps"]
        torch.set_rng_state(tensors["random.torch"])
        for name, generator in self.attached.generators().items():
            generator.set_state(tensors[f"random.{name}"])
        method = "method."
        self.attached.load_state({name.removeprefix(method): t for name, t in tensors.items() if name.startswith(method)})
        for k, member in enumerate(self.members):
            own = {key.removeprefix(f"{k}."): value for key, value in tensors.items() if key.startswith(f"{k}.")}
            member.restore(own, state["progress"][k])


Drive = Callable[[Stack, Path, Callable[[Stack], AbstractContextManager[Any]], Callable[[], None]], None]
"""Takes the steps of a stack until its members have ended: (stack, folder for files of its own, what is opened around every
step, what is called after it)."""


def own_steps(
    stack: Stack, folder: Path, watching: Callable[[Stack], AbstractContextManager[Any]], after: Callable[[], None]
) -> None:
    while any(member.running for member in stack.members):
        with watching(stack):
            stack.step()
        after()


def peak_memory_bytes() -> int:
    """Largest memory so far: of the accelerator where there is one, else of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
