"""Stopping a process that trains: INT and TERM wait for the next step, so that a checkpoint is kept; a second one ends at once.

    with handled():                     # the whole command
        ...                             # loading: a signal raises Interrupted here and now
        with deferred(watch):           # the loop: a signal is noted, and `watch` raises after the step that is being taken
            ...

`isolora stop` on another machine cannot send a signal; it leaves a file, which the loop looks for once a second.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from isolora.runs.observer import Observer
from isolora.training.checkpoint import Checkpointer
from isolora.training.lease import STOP_FILE
from isolora.training.stack import Stack

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE_SECONDS = 10.0
"""How long a step, or an evaluation behind it, may hold up the end; then it is given up, and the last checkpoint counts."""


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop. signal: INT or TERM; a stop file counts as TERM."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.signal = number

    @property
    def exit_status(self) -> int:
        """130 for INT, 143 for TERM, as shells have it."""
        return 128 + self.signal


class _Asked:
    """What signals have asked of this process; there is one set of handlers in a process, and so one of these."""

    signal: int | None = None
    deferred = False


_asked = _Asked()


@contextmanager
def handled() -> Iterator[None]:
    """Within the context INT and TERM raise Interrupted. Outside the main thread, which alone may, nothing is changed.

    Ray puts a bare KeyboardInterrupt in the place of what a handler has raised; it leaves the context as what was asked.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = handle_again()
    _asked.signal = None
    try:
        yield
    except KeyboardInterrupt as stop:
        if isinstance(stop, Interrupted) or _asked.signal is None:
            raise
        raise Interrupted(_asked.signal) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _asked.signal = None  # what is trained next in this process, without handlers perhaps, was not asked to stop
        for number, handler in before.items():
            signal.signal(number, handler)


def handle_again() -> dict[int, Any]:
    """Put our handlers in place, also of those that a library has set meanwhile; returns what was there, by signal."""
    handlers = {**dict.fromkeys(SIGNALS, _on_signal), signal.SIGALRM: _on_alarm}
    return {int(number): signal.signal(number, handler) for number, handler in handlers.items()}


def _on_signal(number: int, frame: FrameType | None) -> None:
    if _asked.signal is not None:  # asked twice: now. Workers die with this process
        os._exit(128 + number)
    _asked.signal = number
    if not _asked.deferred:
        raise Interrupted(number)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)
    _say("stopping after this step; once more ends at once")


def _on_alarm(number: int, frame: FrameType | None) -> None:
    if _asked.signal is not None and _asked.deferred:
        raise Interrupted(_asked.signal)


@contextmanager
def deferred() -> Iterator[None]:
    """Within the context a signal is noted only; an observer, `StopWatch`, raises Interrupted when it is a good moment."""
    if _asked.signal is not None:
        raise Interrupted(_asked.signal)
    _asked.deferred = True
    try:
        yield
    finally:
        _asked.deferred = False
        signal.setitimer(signal.ITIMER_REAL, 0)
    if _asked.signal is not None:  # it came with the last step: what follows in this process is not begun
        raise Interrupted(_asked.signal)


def _say(line: str) -> None:
    if sys.stderr is not None:
        print(f"isolora: {line}", file=sys.stderr, flush=True)


class StopWatch(Observer):
    """After every step: where somebody has asked to stop, keep a checkpoint and raise Interrupted. folder: of the study."""

    def __init__(self, checkpointer: Checkpointer, folder: Path) -> None:
        self.checkpointer, self.stop_file = checkpointer, folder / STOP_FILE
        self.looked = time.monotonic()

    def after_step(self, stack: Stack) -> None:
        if not stack.running:
            return
        number = stack.ranks.agreed(_asked.signal or self._by_file())
        if number is not None:
            self.checkpointer.save(stack)
            raise Interrupted(number)

    def _by_file(self) -> int | None:
        if time.monotonic() - self.looked < 1:
            return None
        self.looked = time.monotonic()
        return signal.SIGTERM if self.stop_file.exists() else None
