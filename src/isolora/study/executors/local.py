"""On this machine: in this process, or in worker processes side by side."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from isolora.runs.workspace import Workspace
from isolora.study.design import Stack
from isolora.study.executors.base import Executor, PrunerOf, Train, train_job


class Local(Executor):
    """One worker is this process itself."""

    name = "local"

    @contextmanager
    def opened(self, folder: Path, workers: int, quiet: bool, workspace: Workspace) -> Iterator[Train]:
        if workers == 1:
            yield partial(_in_turn, workspace, folder, quiet)
            return
        threads = max(1, (os.cpu_count() or 1) // workers)
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(threads,)) as pool:
            yield partial(_in_processes, pool, folder, quiet)


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on import it tells of a kernel that it does without


def _in_turn(workspace: Workspace, folder: Path, quiet: bool, jobs: Sequence[Stack], stage: str, pruner_of: PrunerOf) -> None:
    for job in jobs:
        train_job(job, folder, stage, quiet, pruner_of, workspace)


def _in_processes(
    pool: ProcessPoolExecutor,
    folder: Path,
    quiet: bool,
    jobs: Sequence[Stack],
    stage: str,
    pruner_of: PrunerOf,
) -> None:
    for finished in [pool.submit(train_job, job, folder, stage, quiet, pruner_of) for job in jobs]:
        finished.result()


executor = Local()
