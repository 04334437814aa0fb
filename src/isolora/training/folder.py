"""The folder of a run or a study while it is written: checked, leased, logged, and bare again where nothing was begun in it."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from isolora.errors import ConfigError, RunFailed, UserError
from isolora.paths import short_name
from isolora.store import INTERRUPTED, RUNNING, Store
from isolora.training.lease import STOP_FILE, lease

LOG = "study.log"
RESERVE, RESERVE_BYTES = ".reserve", 256 * 1024
"""A file of zeros. On a full disk it makes room for the states of runs and for the log."""


@contextmanager
def locked_store(folder: Path, workers: int = 1) -> Iterator[Store]:
    """The store in a folder that this process alone writes to, until the context ends.

    Raises ConfigError, one line, for a folder that cannot be written or that somebody else holds. A mistake that shows before the
    first point is measured leaves a new folder as it was: absent, or empty.
    """
    absent = _absent(folder)
    try:
        with ExitStack() as opened:
            with _in_one_line(folder):
                folder.mkdir(parents=True, exist_ok=True)
                bare = not any(folder.iterdir())
                dead = opened.enter_context(lease(folder, workers, f"end it with: isolora stop {folder}"))
                opened.enter_context(_bare_again(folder, bare))
                store = Store(folder)
                (folder / RESERVE).write_bytes(bytes(RESERVE_BYTES))
                (folder / STOP_FILE).unlink(missing_ok=True)
            if dead is not None:
                say(folder, f"{folder} is taken over from {dead}, which is gone")
            store.set_state(store.in_state(RUNNING), INTERRUPTED, "its process ended without a word")
            opened.callback(release_reserve, folder)
            yield store
    except UserError:
        for place in absent:  # only those that are empty
            with contextlib.suppress(OSError):
                place.rmdir()
        raise


def _absent(folder: Path) -> list[Path]:
    """The folders of the path that do not exist yet, innermost first."""
    with contextlib.suppress(OSError):
        return [place for place in (folder, *folder.parents) if not place.exists()]
    return []


@contextmanager
def _bare_again(folder: Path, bare: bool) -> Iterator[None]:
    """Around all that is written: take it back where a mistake showed at the start. bare: whether there was nothing before."""
    try:
        yield
    except RunFailed:
        raise
    except UserError:
        if bare and not _has_points(folder):
            for place in folder.iterdir():
                shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink(missing_ok=True)
        raise


def _has_points(folder: Path) -> bool:
    try:
        return Store(folder).has_points()
    except (OSError, sqlite3.Error):
        return False


@contextmanager
def _in_one_line(folder: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise ConfigError(f"--out: {folder} is a file; name a folder") from None
    except NotADirectoryError:
        raise ConfigError(f"--out: a part of {folder} is a file; name a folder") from None
    except (OSError, sqlite3.Error) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"--out: {short_name(folder)} cannot be written: {why}") from None


def say(folder: Path, line: str) -> None:
    """Tell the person in one line, and the folder's log."""
    log(folder, line)
    with contextlib.suppress(OSError):
        print(f"isolora: {line}", file=sys.stderr, flush=True)


def log(folder: Path, text: str) -> None:
    """Add to the log, with the time in UTC. A log that cannot be written is no reason to stop."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    with contextlib.suppress(OSError), (folder / LOG).open("a", encoding="utf-8") as file:
        file.write(f"{stamp}  {text.rstrip()}\n")


def log_failure(folder: Path, title: str, failure: BaseException) -> None:
    """Add a traceback to the log."""
    log(folder, f"{title}\n{''.join(traceback.format_exception(failure))}")


def release_reserve(folder: Path) -> None:
    with contextlib.suppress(OSError):
        (folder / RESERVE).unlink(missing_ok=True)
