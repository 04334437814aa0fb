"""The first things that a worker process does: it ties its life to its parent's. Imports nothing heavy, so as not to be late.

Where it is safe, workers are forked from one process that has imported what all of them need (multiprocessing's fork server),
beside the imports of the process that asks for workers. Each worker on its own took 8 processor seconds for that.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, get_context, parent_process
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from isolora.garbage import without_collection

ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/accel")
"""What a driver of NVIDIA's, of AMD's, of Windows's below Linux or of another kind shows."""
PRELOADED = "isolora.study.executors.preloaded"
"""What the fork server imports before it forks."""


def beside_accelerator() -> bool:
    """Whether the system shows one; told without torch."""
    return any(Path(device).exists() for device in ACCELERATORS)


def start_method() -> ForkServerContext | SpawnContext:
    """How worker processes begin. A driver that a library has begun to use may not be forked, so never beside an accelerator."""
    if sys.platform == "linux" and not beside_accelerator():
        return get_context("forkserver")
    return get_context("spawn")


def import_ahead() -> None:
    """Let the fork server import what workers need, beside whatever this process does meanwhile. Whoever knows that there will be
    workers says so early."""
    context = start_method()
    if isinstance(context, ForkServerContext):
        context.set_forkserver_preload([PRELOADED])
        with _no_interrupts(), suppress(OSError):  # told, or done without, where a worker is to start
            forkserver.ensure_running()


def start_worker(module: str, function: str, *given: object) -> BaseProcess:
    """A process that calls a function of a module, with the environment of now, and ends with this one.

    A fork server listens at a socket below the temporary folder. Where there can be none (paths of sockets end at 107 bytes, and
    some file systems know no sockets), or where that folder was swept meanwhile, the worker begins on its own.
    """
    import_ahead()
    asked = (dict(os.environ), module, function, *given)
    try:
        return _started(start_method(), asked)
    except OSError:
        return _started(get_context("spawn"), asked)


def _started(context: ForkServerContext | SpawnContext, asked: tuple[object, ...]) -> BaseProcess:
    process = context.Process(target=run_with_parent, args=asked, daemon=True)
    with _no_interrupts():
        process.start()
    return process


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Within, processes are started that never see SIGINT: a terminal's Ctrl-C reaches the whole group, and is passed on to
    workers as TERM."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_with_parent(environment: Mapping[str, str], module: str, function: str, *given: object) -> None:
    """Call a function of a module in this new process, which ends with the one that asked for it, even if that is killed by -9.

    environment: of that one; a fork server's is as old as the server.
    """
    threading.Thread(target=_watch, daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    with without_collection():
        loaded = importlib.import_module(module)
    getattr(loaded, function)(*given)


def _watch() -> None:
    """A pipe from the parent closes when it ends, however it ends."""
    asked_by = parent_process()
    if asked_by is not None:
        asked_by.join()
        os._exit(128 + signal.SIGTERM)
