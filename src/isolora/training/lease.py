"""A lease: one process at a time on a folder. A second one is refused by name; what a dead one left behind is taken over.

`flock` decides on one machine: the kernel lets go when the owner dies, however it dies. Some shared file systems keep `flock` to
each machine, so the owner also touches its file every few seconds, and another machine believes a fresh one.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from isolora.errors import ConfigError

FILE = "owner.lock"
STOP_FILE = "stop"
"""Left in the folder by whoever wants its owner on another machine to end."""
HEARTBEAT_SECONDS = 5.0
FRESH_SECONDS = 60.0
"""A heartbeat younger than this, seen from another machine, is a living owner's."""


@dataclass(frozen=True)
class Owner:
    """Who holds a folder. since: UTC."""

    host: str
    pid: int
    since: str
    workers: int = 1

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, on this machine."""
        return self.host == socket.gethostname()


@contextmanager
def lease(folder: Path, workers: int = 1, advice: str = "wait for it") -> Iterator[Owner | None]:
    """Hold a folder that exists; gives the dead owner that it is taken over from, None after one that ended well.

    Raises ConfigError, naming the owner, where a living one holds it. advice: what to do then.
    """
    handle = _locked(folder, advice)
    try:
        before = owner(folder)
        if before is not None and not before.is_here and _is_fresh(folder):
            raise ConfigError(_refusal(folder, before, advice))
        _write(handle, folder, Owner(socket.gethostname(), os.getpid(), _now(), workers))
        try:
            with _heartbeat(handle):
                yield before
        finally:
            (folder / FILE).unlink(missing_ok=True)  # it has ended, well or not, and knew it
    finally:
        os.close(handle)


def living_owner(folder: Path) -> Owner | None:
    """Who holds the folder now, as far as this machine can tell."""
    found = owner(folder)
    if found is None or not found.is_here:
        return found if found is not None and _is_fresh(folder) else None
    try:
        handle = os.open(folder / FILE, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return found
    except OSError:
        return None
    finally:
        os.close(handle)
    return None


def owner(folder: Path) -> Owner | None:
    """The last owner that has not ended of its own accord."""
    try:
        return Owner(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _locked(folder: Path, advice: str) -> int:
    """A descriptor of the folder's file, locked. A file that was replaced while we waited for it counts for nothing."""
    while True:
        handle = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise ConfigError(_refusal(folder, owner(folder), advice)) from None
        except BaseException:
            os.close(handle)
            raise
        if _is_in_place(handle, folder):
            return handle
        os.close(handle)


def _is_in_place(handle: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), (folder / FILE).stat())
    except FileNotFoundError:
        return False


def _refusal(folder: Path, held_by: Owner | None, advice: str) -> str:
    return f"{folder} is in use by {held_by or 'another process'}; {advice}"


def _write(handle: int, folder: Path, who: Owner) -> None:
    """Raises OSError, and takes the file back, where the disk is full."""
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(asdict(who)).encode(), 0)
    except OSError:
        (folder / FILE).unlink(missing_ok=True)
        raise


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())


@contextmanager
def _heartbeat(handle: int) -> Iterator[None]:
    """Touch the file now and then, from a thread that ends with the context."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            try:
                os.utime(handle)
            except OSError:  # a full or absent disk is told by whoever writes what matters
                continue

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _is_fresh(folder: Path) -> bool:
    """By the file system's own clock, which need not be this machine's."""
    probe = folder / f".clock-{os.getpid()}"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        now = time.time()
    return abs(now - (folder / FILE).stat().st_mtime) < FRESH_SECONDS
