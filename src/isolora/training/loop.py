"""The loop: a stack steps, the evaluator measures, the checkpointer keeps, observers watch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isolora.metrics.predictions import Predictions, all_scores
from isolora.runs.member import Member
from isolora.runs.observer import Observer
from isolora.store import DIVERGED, DONE
from isolora.training.checkpoint import Checkpointer
from isolora.training.evaluator import Evaluator
from isolora.training.recorder import point
from isolora.training.shares import HeldOutShares
from isolora.training.stack import Stack


class Loop:
    """Trains a stack until all budgets are used up. refill: lets others join where members have ended, and returns whether any
    has; slow_scores: whether scores that a task takes at the end of a budget alone are wanted; folder: for files of a trainer's
    own."""

    def __init__(
        self,
        stack: Stack,
        evaluator: Evaluator,
        checkpointer: Checkpointer,
        observers: Sequence[Observer] = (),
        refill: Callable[[Loop], bool] | None = None,
        slow_scores: bool = True,
    ) -> None:
        self.stack, self.evaluator, self.checkpointer = stack, evaluator, checkpointer
        self.observers, self.refill, self.slow_scores = list(observers), refill, slow_scores
        self.shares = HeldOutShares(stack.examples, stack.members[0].training.evaluate_between)
        self.text_losses_before: dict[str, float] = {}

    @property
    def folder(self) -> Path:
        return self.checkpointer.folder

    def run(self, drive: Drive | None = None) -> None:
        """Train every member to the end of its budget, from the newest valid checkpoint when there is one. drive: who takes the
        steps; our own loop where absent."""
        self.checkpointer.resume(self.stack)
        self.text_losses_before = self.evaluator.text_losses(self.stack.examples.other_texts, None)
        self.stack.attached.train(True)
        (drive or drive_natively)(self)
        self.stack.attached.train(False)

    @contextmanager
    def watched_step(self) -> Iterator[None]:
        """Around every optimiser step."""
        with ExitStack() as opened:
            for observer in self.observers:
                opened.enter_context(observer.around_step(self.stack))
            yield

    def after_step(self) -> None:
        """After every optimiser step: evaluate and checkpoint what is due, with those that have joined."""
        evaluated = self.evaluate_due()
        joined = self.refill is not None and self.refill(self)
        if evaluated or joined or self.checkpointer.is_due():
            self.checkpointer.save(self.stack)
        for observer in self.observers:
            observer.after_step(self.stack)

    def evaluate_due(self) -> bool:
        """Evaluate members that have reached their next mark or the end of their budget; returns whether any had."""
        due = [k for k in self.stack.running if _is_due(self.stack.members[k])]
        if not due:
            return False
        losses = self.evaluate(due)
        points = {k: point(self.stack, k, loss) for k, loss in losses.items()}
        for k, loss in losses.items():
            _advance(self.stack.members[k], loss)
        finite = [found for k, found in points.items() if math.isfinite(losses[k])]
        for observer in self.observers:
            observer.on_points(self.stack, finite)
        return True

    def evaluate(self, which: Sequence[int]) -> dict[int, float]:
        """Held-out loss of each member on its averaged weights; its progress receives the task's measures and what it forgot."""
        stack, examples = self.stack, self.stack.examples
        at_points = stack.task.scored_at == "points"  # slow measures are taken at the end of a budget alone
        scored = [k for k in which if at_points or (self.slow_scores and stack.members[k].spent() >= 1)]
        between = [k for k in which if self.shares.suffice(stack.members[k])]
        whole = [k for k in which if k not in between]
        with stack.averaged(which):
            rows, answers = self.evaluator.losses_and_predictions(examples, whole, [k for k in scored if k in whole])
            estimates = self.shares.estimates(self.evaluator, stack.members, between, scored)
        losses = {k: examples.held_out.mean_loss(row) for k, row in rows.items()}
        losses |= {k: loss for k, (loss, _) in estimates.items()}
        for k, row in rows.items():
            self._note_shares(k, row, answers.get(k, {}))
        for k in which:
            scores = estimates[k][1] if k in estimates else all_scores(answers.get(k, {}))
            stack.members[k].progress.metrics = scores | self.evaluator.restated(examples.held_out, losses[k])
        with stack.averaged(which):
            for k in which:
                after = self.evaluator.text_losses(examples.other_texts, k)
                before = self.text_losses_before
                stack.members[k].progress.forgotten = {name: loss - before[name] for name, loss in after.items()}
        return losses

    def _note_shares(self, k: int, summed: NDArray[np.float64], answers: Mapping[str, Predictions]) -> None:
        """What a member's losses and answers on all held-out examples say of its evaluations on shares of them."""
        progress, held_out = self.stack.members[k].progress, self.stack.examples.held_out
        settled = {
            tokens: found | self.evaluator.restated(held_out, found["loss"])
            for tokens, found in self.shares.note_whole(progress, summed, answers).items()
        }
        for observer in self.observers if settled else ():
            observer.on_settled(self.stack, k, settled)


Drive = Callable[[Loop], None]
"""Takes the steps of a loop's stack until its members have ended, each inside `watched_step` and followed by `after_step`."""


def drive_natively(loop: Loop) -> None:
    while loop.stack.running:
        with loop.watched_step():
            loop.stack.step()
        loop.after_step()


def _is_due(member: Member) -> bool:
    return member.progress.is_due(member.spent())


def _advance(member: Member, loss: float) -> None:
    """Move on to the next mark after an evaluation, or end."""
    progress = member.progress
    progress.last_loss = loss
    progress.pass_marks(member.training.evaluate_ratio)
    progress.loss_sum, progress.loss_count = 0.0, 0
    if not math.isfinite(loss):
        progress.state = DIVERGED
    elif member.spent() >= 1:
        progress.state = DONE
