"""Worker processes that train stacks side by side: each is watched, none outlives this process, and one that dies is replaced.

A stack whose worker died is trained once more, from its last checkpoint; the second death is the stack's failure.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType

import torch

from isolora.child_process import start_worker
from isolora.errors import RunFailed, UserError
from isolora.runs.workspace import Workspace
from isolora.store import FAILED, Store
from isolora.study.design import Job
from isolora.study.executors.base import Failure, PrunerOf, attempt, failed
from isolora.training.folder import say
from isolora.training.interruption import PATIENCE_SECONDS, Interrupted, handled
from isolora.training.lease import STOP_FILE

TRIES = 2
"""Of a stack, counted by the workers that died over it."""
SECONDS_BETWEEN_LOOKS = 0.5


class Worker:
    """A process that is given one stack at a time. job: its number, None when idle."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.job: int | None = None
        self.process: BaseProcess
        self.connection: Connection
        self.start()

    def start(self) -> None:
        self.connection, theirs = Pipe()
        self.process = start_worker(__name__, serve.__name__, theirs, self.threads)
        theirs.close()

    @property
    def death(self) -> str:
        """How it ended, in words."""
        self.process.join(PATIENCE_SECONDS)
        status = self.process.exitcode
        if status is not None and status < 0:
            return f"killed by {signal.Signals(-status).name}" + (" (out of memory?)" if status == -signal.SIGKILL else "")
        return f"ended with exit status {status}"


class Workers:
    """Trains the stacks of a study. A context manager: at its end the workers are asked to stop, keep a checkpoint, and go."""

    def __init__(self, count: int, folder: Path, quiet: bool, workspace: Workspace) -> None:
        self.folder, self.quiet, self.workspace = folder, quiet, workspace
        self.count, self.workers = count, list[Worker]()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for worker in self.workers:
            worker.process.terminate()
        until = time.monotonic() + PATIENCE_SECONDS + 1
        for worker in self.workers:
            worker.process.join(max(0.0, until - time.monotonic()))
            worker.process.kill()
            worker.process.join()
            worker.connection.close()

    def train(self, jobs: Sequence[Job], stage: str, pruner_of: PrunerOf) -> list[Failure]:
        threads = max(1, (os.cpu_count() or 1) // self.count)
        self.workers = self.workers or [Worker(threads) for _ in range(self.count)]  # not before there is work
        waiting, failures = deque(range(len(jobs))), dict[int, Failure]()
        deaths = [0] * len(jobs)
        while waiting or any(worker.job is not None for worker in self.workers):
            for worker in self.workers:
                if worker.job is None and waiting:
                    self._give(worker, waiting.popleft(), (jobs, stage, pruner_of))
            for worker in self._ready():
                number, error = self._result(worker)
                if isinstance(error, _Died):
                    deaths[number] += 1
                    if deaths[number] < TRIES:
                        self._tell_retry(jobs[number], error)
                        waiting.appendleft(number)
                        continue
                    error = self._given_up(jobs[number], error)
                if error is not None:
                    failures[number] = failed(jobs[number], error, self.folder)
        return [failures[number] for number in sorted(failures)]

    def _give(self, worker: Worker, number: int, what: tuple[Sequence[Job], str, PrunerOf]) -> None:
        jobs, stage, pruner_of = what
        worker.job = number
        try:
            worker.connection.send((jobs[number], Store(self.folder), stage, self.quiet, pruner_of))
        except OSError:  # it has died, which the next look tells
            return

    def _ready(self) -> list[Worker]:
        """Workers that have answered or died; asks now and then whether somebody wants the study to stop."""
        busy = {worker.connection: worker for worker in self.workers if worker.job is not None}
        answered = wait(list(busy), SECONDS_BETWEEN_LOOKS)
        if (self.folder / STOP_FILE).exists():
            raise Interrupted(signal.SIGTERM)
        return [busy[connection] for connection in answered if isinstance(connection, Connection)]

    def _result(self, worker: Worker) -> tuple[int, UserError | _Died | None]:
        number, worker.job = worker.job, None
        assert number is not None
        try:
            return number, worker.connection.recv()
        except (EOFError, OSError):
            died = _Died(worker.death)
            worker.connection.close()
            worker.start()
            return number, died

    def _tell_retry(self, job: Job, died: _Died) -> None:
        names, store = self._names(job), Store(self.folder)
        for name in names:
            store.note(name, {"retried": str(died)})
        say(self.folder, f"the worker of {len(job)} runs ({names[0]} ...) was {died}; they go on in another one")

    def _given_up(self, job: Job, died: _Died) -> RunFailed:
        names, store = self._names(job), Store(self.folder)
        line = f"its worker was {died}, twice"
        store.set_state([name for name in names if name not in store.ended()], FAILED, line)
        return RunFailed(f"runs {', '.join(names)}: {line}")

    def _names(self, job: Job) -> list[str]:
        return [self.workspace.identity(config) for config in job]


class _Died(Exception):
    """A worker's end without an answer, in words."""


def serve(connection: Connection, threads: int) -> None:
    """What a worker does: train what it is given, until there is nothing more."""
    torch.set_num_threads(threads)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on import it tells of a kernel that it does without
    try:
        with handled():
            while True:
                connection.send(attempt(*connection.recv()))
    except (EOFError, BrokenPipeError):
        return
    except Interrupted as stop:
        os._exit(stop.exit_status)
