"""The callback through which a Trainer's steps are counted, evaluated, checkpointed and stopped by a loop."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

from transformers import TrainerCallback

from isolora.runs.batches import Indices
from isolora.training.loop import Loop


class LoopCallback(TrainerCallback):  # type: ignore[misc]
    """Of a stack of one member. drawn: the examples of this step; loss: theirs, summed over the micro-batches so far."""

    def __init__(self, loop: Loop) -> None:
        self.loop, self.stack = loop, loop.stack
        (self.member,) = loop.stack.members
        self.step = ExitStack()

    def draw(self) -> list[Indices]:
        """Examples of the next step, micro-batch by micro-batch; a Trainer counts on as many as it accumulates."""
        self.started = time.perf_counter()
        self.loss = 0.0
        self.drawn = self.member.stream.next()
        parts = self.member.micro_batches(self.drawn)
        return parts + [self.drawn[:0]] * (self.member.training.accumulation - len(parts))

    @property
    def units(self) -> int:
        """What this step's loss is a mean over."""
        return int(self.stack.units[self.drawn].sum())

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.member.optimizer.link()

    def on_step_begin(self, *_: object, **__: object) -> None:
        self.step.enter_context(self.loop.watched_step())

    def on_pre_optimizer_step(self, *_: object, **__: object) -> None:
        self.stack.consume(0, self.drawn, self.loss)

    def on_optimizer_step(self, *_: object, **__: object) -> None:
        if self.member.running:
            self.stack.finish_step(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: object) -> None:
        self.member.optimizer.link()  # the Trainer has thrown the gradients away, and with them the views
        self.stack.steps += 1
        self.member.progress.seconds += time.perf_counter() - self.started
        self.step.close()
        self.loop.after_step()
        control.should_training_stop = not self.member.running
