"""Progress to standard error: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from isolora.runs.observer import Observer
from isolora.training.stack import Stack

PLAIN_SECONDS = 15.0
"""Time between two plain lines."""


class ProgressBar(Observer):
    """Shows how far a stack has come. A context manager."""

    def __init__(self, title: str, quiet: bool = False) -> None:
        self.title, self.quiet = title, quiet
        self._bar: Progress | None = None
        self._printed = time.monotonic()

    def __enter__(self) -> ProgressBar:
        if sys.stderr.isatty() and not self.quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=1.0, note="")
        return self

    def after_step(self, stack: Stack) -> None:
        members = [stack.members[k] for k in stack.running] or stack.members
        loss = min(member.progress.train_loss for member in members)
        self.update(min(member.spent() for member in members), f"train loss {loss:.3f}" if loss else "")

    def update(self, share: float, note: str) -> None:
        """share: part done; the last batch may go a little beyond the budget, which is 1."""
        share = min(share, 1.0)
        if self._bar is not None:
            self._bar.update(self._task, completed=share, note=note)
        elif not self.quiet and time.monotonic() - self._printed > PLAIN_SECONDS:
            self._printed = time.monotonic()
            print(f"{self.title}: {share:.0%} {note}".rstrip(), file=sys.stderr, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
