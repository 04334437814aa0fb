"""What may watch a stack being trained: progress bars, cost checks, recorders, trackers, pruners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from isolora.store import Point

if TYPE_CHECKING:
    from isolora.training.stack import Stack


class Observer:
    """Every method may be left as it is. Observers are called in the order of the loop's list."""

    def around_step(self, stack: Stack) -> AbstractContextManager[None]:
        """Opened before every optimiser step, closed after it."""
        return nullcontext()

    def after_step(self, stack: Stack) -> None:
        """Called after every step, and after the evaluation that it may have led to."""

    def on_points(self, stack: Stack, points: Sequence[Point]) -> None:
        """Called with the points of the members that have just been evaluated; their loss is finite."""

    def on_joined(self, stack: Stack) -> None:
        """Called when runs have taken the places of members that had ended; those that go on have new numbers."""

    def on_settled(self, stack: Stack, k: int, measures: Mapping[int, Mapping[str, float]]) -> None:
        """Called at the end of a member whose points between were measured on a share of the held-out examples, with what their
        `loss` and all that restates it [by tokens] are in the light of its last evaluation."""
