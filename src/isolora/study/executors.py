"""Where stacks are trained: in this process, in worker processes, or on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from isolora.config import RunConfig
from isolora.errors import MissingExtra
from isolora.store import Store
from isolora.study.design import Stack
from isolora.training.run import train_stack

EXECUTORS = ("local", "ray")


def execute(jobs: Sequence[Stack], folder: Path, stage: str, executor: str, workers: int, quiet: bool) -> None:
    """Train every stack; each is resumed or skipped according to the store in `folder`."""
    if executor == "ray":
        _on_ray(jobs, folder, stage)
    elif workers == 1:
        for job in jobs:
            train_stack(job, Store(folder), stage, quiet)
    else:
        _in_processes(jobs, folder, stage, workers, quiet)


def _in_processes(jobs: Sequence[Stack], folder: Path, stage: str, workers: int, quiet: bool) -> None:
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        for finished in [pool.submit(_train, job, folder, stage, quiet) for job in jobs]:
            finished.result()


def _on_ray(jobs: Sequence[Stack], folder: Path, stage: str) -> None:
    try:
        import ray
    except ImportError:
        raise MissingExtra("ray", "ray") from None
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    remote = ray.remote(_train)
    ray.get([remote.remote(job, folder, stage, True) for job in jobs])


def _train(job: Sequence[RunConfig], folder: Path, stage: str, quiet: bool) -> None:
    train_stack(job, Store(folder), stage, quiet)
