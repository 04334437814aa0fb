"""On this machine: in this process, or in worker processes side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from isolora.runs.workspace import Workspace
from isolora.store import Store
from isolora.study.design import Job
from isolora.study.executors.base import Executor, Failure, PrunerOf, Train, attempt, failed
from isolora.study.executors.workers import Workers


class Local(Executor):
    """One worker is this process itself."""

    name = "local"

    @contextmanager
    def opened(self, folder: Path, workers: int, quiet: bool, workspace: Workspace) -> Iterator[Train]:
        if workers == 1:
            yield partial(_in_turn, workspace, folder, quiet)
            return
        with Workers(workers, folder, quiet, workspace) as pool:
            yield pool.train


def _in_turn(
    workspace: Workspace, folder: Path, quiet: bool, jobs: Sequence[Job], stage: str, pruner_of: PrunerOf
) -> list[Failure]:
    failures, store = [], Store(folder)
    for job in jobs:
        error = attempt(job, store, stage, quiet, pruner_of, workspace)
        failures += [] if error is None else [failed(job, error, folder)]
    return failures


executor = Local()
