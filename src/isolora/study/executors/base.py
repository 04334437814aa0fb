"""What an executor is: it trains stacks somewhere, each into the study's store, and waits for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

from isolora import registry
from isolora.runs.workspace import Workspace
from isolora.store import Store
from isolora.study.design import Stack
from isolora.training.run import ShouldPrune, never_prune, train_stack

PrunerOf = Callable[[Stack], ShouldPrune]
"""What decides for a stack which of its runs end early."""

Train = Callable[[Sequence[Stack], str, PrunerOf], None]
"""Trains stacks at a stage, each with a pruner of its own, and returns when all have ended; each is resumed or skipped according
to the store."""


class Executor(ABC):
    """One place where stacks are trained."""

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ()
    """Optional packages that it cannot do without."""

    @abstractmethod
    def opened(self, folder: Path, workers: int, quiet: bool, workspace: Workspace) -> AbstractContextManager[Train]:
        """What trains stacks into the store in `folder`; whatever is started for it is kept until the context ends.

        workers: stacks at a time; workspace: what this process shares between its runs.
        """


def train_job(job: Stack, folder: Path, stage: str, quiet: bool, pruner_of: PrunerOf, workspace: Workspace | None = None) -> None:
    """Train one stack here. What an executor sends to another process, where no workspace is given."""
    with registry.plug_ins_named():
        train_stack(job, Store(folder), stage, quiet, pruner_of(job), workspace or _workspace)


def no_pruner(job: Stack) -> ShouldPrune:
    return never_prune


_workspace = Workspace()
"""A worker process's own: it lives as long as the study that started it."""
