"""A new process for every stack, so that each gives all of its memory back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

from isolora.extend import Executor, Job, PrunerOf, Train, Workspace, train_job


class Fresh(Executor):
    name = "fresh"

    @contextmanager
    def opened(self, folder: Path, workers: int, quiet: bool, workspace: Workspace) -> Iterator[Train]:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:

            def train(jobs: Sequence[Job], stage: str, pruner_of: PrunerOf) -> None:
                for ended in [pool.submit(train_job, job, folder, stage, quiet, pruner_of) for job in jobs]:
                    ended.result()

            yield train


executor = Fresh()
