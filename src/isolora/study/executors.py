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
from isolora.store import Point, Store
from isolora.study.design import Stack
from isolora.training.run import train_stack

EXECUTORS = ("local", "ray")

Judge = Callable[[Point], bool]
"""Whether a run is hopeless after an evaluation."""


def patient(job: Stack) -> Judge:
    """Never gives a run up."""
    return lambda point: False


Train = Callable[[Sequence[Stack], str, Callable[[Stack], Judge]], None]
"""Trains stacks at a stage, each under a judge of its own; each is resumed or skipped according to the store."""


@contextmanager
def trainer(folder: Path, executor: str, workers: int, quiet: bool) -> Iterator[Train]:
    """What trains stacks into the store in `folder`; worker processes are kept until the end."""
    if executor == "ray":
        yield partial(_on_ray, folder)
    elif workers == 1:
        yield partial(_in_turn, folder, quiet)
    else:
        threads = max(1, (os.cpu_count() or 1) // workers)
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(threads,)) as pool:
            yield partial(_in_processes, pool, folder, quiet)


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on import it tells of a kernel that it does without


def _in_turn(folder: Path, quiet: bool, jobs: Sequence[Stack], stage: str, judge_of: Callable[[Stack], Judge]) -> None:
    for job in jobs:
        _train(job, folder, stage, quiet, judge_of)


def _in_processes(
    pool: ProcessPoolExecutor,
    folder: Path,
    quiet: bool,
    jobs: Sequence[Stack],
    stage: str,
    judge_of: Callable[[Stack], Judge],
) -> None:
    for finished in [pool.submit(_train, job, folder, stage, quiet, judge_of) for job in jobs]:
        finished.result()


def _on_ray(folder: Path, jobs: Sequence[Stack], stage: str, judge_of: Callable[[Stack], Judge]) -> None:
    try:
        import ray
    except ImportError:
        raise MissingExtra("ray", "ray") from None
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    remote = ray.remote(_train)
    ray.get([remote.remote(job, folder, stage, True, judge_of) for job in jobs])


def _train(job: Stack, folder: Path, stage: str, quiet: bool, judge_of: Callable[[Stack], Judge]) -> None:
    train_stack(job, Store(folder), stage, quiet, judge_of(job))
