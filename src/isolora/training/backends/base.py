"""What a trainer is: it takes the steps of a loop until all members have ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from isolora.config import RunConfig
from isolora.tasks.base import Task
from isolora.training.loop import Loop


class Trainer(ABC):
    """One way to take steps. Batches, schedule, counting, evaluation and checkpoints stay the loop's and its stack's."""

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ()
    """Optional packages that it cannot do without."""
    stackable: ClassVar[bool] = False
    """Whether it can train several members side by side; else a study gives it one at a time."""
    data_parallel: ClassVar[bool] = False
    """Whether its steps sum gradients over the processes of `accelerate launch`; else several processes are refused."""

    def check(self, config: RunConfig, task: Task) -> None:
        """Raises ConfigError, one line, where the trainer does not suit the run. task: bound to the run's model and classes."""

    @abstractmethod
    def drive(self, loop: Loop) -> None:
        """Take the steps of `loop.stack` while it has running members, each inside `loop.watched_step()` and followed by
        `loop.after_step()`. A stack may have been resumed in the middle of its budget."""
