"""The callback through which a Trainer's steps are entered in a stack's books, evaluated, checkpointed and stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import numpy as np
from transformers import TrainerCallback

from isolora.runs.batches import Indices
from isolora.training.loop import Stack


class Bookkeeper(TrainerCallback):  # type: ignore[misc]
    """Of a stack of one member. taken: the examples of this step; loss: theirs, summed over the micro-batches so far."""

    def __init__(self, stack: Stack, watching: Callable[[Stack], AbstractContextManager[Any]], after: Callable[[], None]) -> None:
        (self.member,) = stack.members
        self.stack, self.watching, self.after = stack, watching, after
        self.watched = ExitStack()

    def take(self) -> list[Indices]:
        """Examples of the next step, micro-batch by micro-batch."""
        self.started = time.perf_counter()
        self.loss = 0.0
        self.taken = self.member.stream.next()
        return np.array_split(self.taken, self.member.training.accumulation)

    @property
    def units(self) -> int:
        """What this step's loss is a mean over."""
        return int(self.stack.units[self.taken].sum())

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.member.link()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.watched.enter_context(self.watching(self.stack))

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.stack.book(0, self.taken, self.loss)

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        if self.member.running:
            self.member.settle(lambda: self.stack.attached.after_step(0, self.member.spent()))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.member.link()  # the Trainer has thrown the gradients away, and with them the views
        self.stack.steps += 1
        self.member.progress.seconds += time.perf_counter() - self.started
        self.watched.close()
        self.after()
        control.should_training_stop = not self.member.running
