"""Where stacks are trained: in this process, in worker processes, or on a Ray cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from isolora.errors import MissingExtra
from isolora.runs.workspace import Workspace
from isolora.store import Store
from isolora.study.design import Stack
from isolora.training.run import ShouldPrune, never_prune, train_stack

EXECUTORS = ("local", "ray")

PrunerOf = Callable[[Stack], ShouldPrune]
"""What decides for a stack which of its runs end early."""


def no_pruner(job: Stack) -> ShouldPrune:
    return never_prune


Train = Callable[[Sequence[Stack], str, PrunerOf], None]
"""Trains stacks at a stage, each with a pruner of its own; each is resumed or skipped according to the store."""

_workspace = Workspace()
"""A worker process's own: it lives as long as the study that started it."""


@contextmanager
def trainer(folder: Path, executor: str, workers: int, quiet: bool, workspace: Workspace) -> Iterator[Train]:
    """What trains stacks into the store in `folder`; worker processes are kept until the end. workspace: this process's."""
    if executor == "ray":
        yield partial(_on_ray, folder)
    elif workers == 1:
        yield partial(_in_turn, workspace, folder, quiet)
    else:
        threads = max(1, (os.cpu_count() or 1) // workers)
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(threads,)) as pool:
            yield partial(_in_processes, pool, folder, quiet)


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on import it tells of a kernel that it does without


def _in_turn(workspace: Workspace, folder: Path, quiet: bool, jobs: Sequence[Stack], stage: str, pruner_of: PrunerOf) -> None:
    for job in jobs:
        _train(job, folder, stage, quiet, pruner_of, workspace)


def _in_processes(
    pool: ProcessPoolExecutor,
    folder: Path,
    quiet: bool,
    jobs: Sequence[Stack],
    stage: str,
    pruner_of: PrunerOf,
) -> None:
    for finished in [pool.submit(_train, job, folder, stage, quiet, pruner_of) for job in jobs]:
        finished.result()


def _on_ray(folder: Path, jobs: Sequence[Stack], stage: str, pruner_of: PrunerOf) -> None:
    try:
        import ray
    except ImportError:
        raise MissingExtra("ray", "ray") from None
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    remote = ray.remote(_train)
    ray.get([remote.remote(job, folder, stage, True, pruner_of) for job in jobs])


def _train(job: Stack, folder: Path, stage: str, quiet: bool, pruner_of: PrunerOf, workspace: Workspace | None = None) -> None:
    train_stack(job, Store(folder), stage, quiet, pruner_of(job), workspace or _workspace)
