"""On a Ray cluster, which decides how many stacks train at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from isolora.runs.workspace import Workspace
from isolora.study.design import Stack
from isolora.study.executors.base import Executor, PrunerOf, Train, train_job


class Ray(Executor):
    """The folder of the study must be one that every machine of the cluster sees."""

    name = "ray"
    requires = ("ray",)

    @contextmanager
    def opened(
        self, folder: Path, workers: int, quiet: bool, workspace: Workspace, address: str | None = None
    ) -> Iterator[Train]:
        yield partial(_on_ray, folder)


def _on_ray(folder: Path, jobs: Sequence[Stack], stage: str, pruner_of: PrunerOf) -> None:
    import ray

    ray.init(ignore_reinit_error=True, log_to_driver=False)
    remote = ray.remote(train_job)
    ray.get([remote.remote(job, folder, stage, True, pruner_of) for job in jobs])


executor = Ray()
