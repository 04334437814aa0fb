"""What an executor is: it trains stacks somewhere, each into the study's store, and waits for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from isolora import registry
from isolora.errors import RunFailed, UserError
from isolora.runs.workspace import Workspace
from isolora.store import Store
from isolora.study.design import Job
from isolora.training.failures import in_one_line
from isolora.training.folder import LOG, log_failure, say
from isolora.training.stack_job import ShouldPrune, never_prune
from isolora.training.training_run import train_stack

PrunerOf = Callable[[Job], ShouldPrune]
"""What decides for a stack which of its runs end early."""


@dataclass(frozen=True)
class Failure:
    """A stack that could not be trained. error: one line for the person; RunFailed where the training had begun."""

    job: Job
    error: UserError

    @property
    def is_mistake(self) -> bool:
        """Whether something that a person wrote is wrong, and not what happened underneath."""
        return not isinstance(self.error, RunFailed)


class StudyFailed(RunFailed):
    """All that could be trained has been; these could not."""

    def __init__(self, store: Store, failures: Sequence[Failure]) -> None:
        reasons = list(dict.fromkeys(str(failure.error) for failure in failures))
        runs = sum(len(failure.job) for failure in failures)
        more = f"; and {len(reasons) - 1} more reasons" if len(reasons) > 1 else ""
        super().__init__(f"{len(failures)} stacks of {runs} runs failed: {reasons[0]}{more}; the same command tries them again")
        self.store, self.failures = store, tuple(failures)


Train = Callable[[Sequence[Job], str, PrunerOf], list[Failure] | None]
"""Trains stacks at a stage, each with a pruner of its own; returns, when all have ended, those that failed: one does not hold up
the others. An executor may also raise the first error. Each stack is resumed or skipped according to the store."""


Trained = Callable[[Sequence[Job], str, PrunerOf], list[Failure]]
"""The same, as a study calls it: all runs are entered as queued, and failures are always a list."""


class Executor(ABC):
    """One place where stacks are trained."""

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ()
    """Optional packages that it cannot do without."""
    takes_address: ClassVar[bool] = False
    """Whether `--address` means something to it."""

    @abstractmethod
    def opened(self, folder: Path, workers: int, quiet: bool, workspace: Workspace) -> AbstractContextManager[Train]:
        """What trains stacks into the store in `folder`; whatever is started for it is kept until the context ends.

        workers: stacks at a time; workspace: what this process shares between its runs. An executor that `takes_address` also has
        a parameter `address`, of a cluster that runs already, None where one is to be started.
        """


def train_job(job: Job, folder: Path, stage: str, quiet: bool, pruner_of: PrunerOf, workspace: Workspace | None = None) -> None:
    """Train one stack here. What an executor sends to another process, where no workspace is given."""
    with registry.plug_ins_named():
        train_stack(job, Store(folder), stage, quiet, pruner_of(job), workspace or _workspace)


def attempt(
    job: Job, store: Store, stage: str, quiet: bool, pruner_of: PrunerOf, workspace: Workspace | None = None
) -> UserError | None:
    """Train one stack here as `train_job` does, but return what went wrong, so that the others can go on."""
    try:
        train_stack(job, store, stage, quiet, pruner_of(job), workspace or _workspace)
    except UserError as error:
        return error
    except Exception as failure:  # before the runs were known, or in a plug-in
        log_failure(store.folder, "a stack failed", failure)
        return RunFailed(f"{in_one_line(failure)} (more in {store.folder / LOG})")
    return None


def failed(job: Job, error: UserError, folder: Path) -> Failure:
    """A failure, told as it happens."""
    shown = job[0]
    say(folder, f"failed: {shown.model}, {shown.method.name}, {len(job)} runs: {error}")
    return Failure(job, error)


def no_pruner(job: Job) -> ShouldPrune:
    return never_prune


_workspace = Workspace()
"""A worker process's own: it lives as long as the study that started it."""
