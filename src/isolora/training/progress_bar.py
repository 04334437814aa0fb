"""Progress to standard error: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 15.0
"""Time between two plain lines."""


class Reporter:
    """Shows how far a piece of work has come. Use as a context manager, then `update(share, note)`."""

    def __init__(self, title: str, quiet: bool = False) -> None:
        self.title, self.quiet = title, quiet
        self._bar: Progress | None = None
        self._said = time.monotonic()

    def __enter__(self) -> Reporter:
        if sys.stderr.isatty() and not self.quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=1.0, note="")
        return self

    def update(self, share: float, note: str) -> None:
        """share: part done, 0 to 1."""
        if self._bar is not None:
            self._bar.update(self._task, completed=share, note=note)
        elif not self.quiet and time.monotonic() - self._said > PLAIN_SECONDS:
            self._said = time.monotonic()
            print(f"{self.title}: {share:.0%} {note}", file=sys.stderr, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
