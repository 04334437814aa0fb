"""How a training that did not end well is told: the state of its runs, one line for the person, the traceback for the log."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from isolora import registry
from isolora.errors import PlugInError, RunFailed, UserError
from isolora.store import ENDED, FAILED, INTERRUPTED, OUT_OF_MEMORY, Store
from isolora.training.folder import LOG, log_failure, release_reserve

OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
"""What allocators say that do not raise a type of their own; torch's on the CPU is one of them."""


class MemoryExhausted(RuntimeError):
    """A run needs more memory than there is, alone and in its smallest micro-batches."""


def is_out_of_memory(failure: BaseException) -> bool:
    if isinstance(failure, MemoryError | torch.OutOfMemoryError | MemoryExhausted):
        return True
    text = str(failure).lower()
    return isinstance(failure, RuntimeError | OSError) and any(words in text for words in OF_MEMORY)


def in_one_line(failure: BaseException) -> str:
    """What went wrong, with its type where that says more than the words; a plug-in of another package is named."""
    if line := registry.blamed(failure):
        return line
    words = " ".join(str(failure).split())
    if isinstance(failure, UserError | PlugInError | KeyboardInterrupt | MemoryExhausted):
        return words or "interrupted"
    return f"{type(failure).__name__}: {words[:300]}" if words else type(failure).__name__


@contextmanager
def entered(store: Store, members: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Around the training of runs: what ends it early is entered as their state.

    An unexpected error becomes RunFailed, one line; its traceback goes into the folder's log.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        _enter(store, members(), INTERRUPTED, in_one_line(stop))
        raise
    except UserError as mistake:
        _enter(store, members(), FAILED, in_one_line(mistake))
        raise
    except Exception as failure:
        release_reserve(store.folder)
        line = in_one_line(failure)
        is_foreign = isinstance(failure, PlugInError) or bool(registry.blamed(failure))
        log_failure(store.folder, f"runs {', '.join(members())} failed", failure)
        _enter(store, members(), OUT_OF_MEMORY if is_out_of_memory(failure) else FAILED, line)
        if is_foreign:
            raise PlugInError(line) from failure
        raise RunFailed(f"{line} (more in {store.folder / LOG}; the same command goes on from the last checkpoint)") from failure


def _enter(store: Store, names: Sequence[str], state: str, reason: str) -> None:
    """For those that have not ended. Where not even that can be written, the line for the person has to do."""
    with contextlib.suppress(sqlite3.Error, OSError):
        states = store.states()
        store.set_state([name for name in names if states.get(name) not in ENDED], state, reason)
