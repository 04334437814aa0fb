"""What a tracker is: it is started for a run, told the run's points, and finished.

And what trackio and wandb have in common: projects with runs, spoken to by accelerate's adapters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from isolora.json_types import JsonObject


@dataclass(frozen=True)
class TrackedRun:
    """A run that asks for a tracker. name: its identity, the same when it is resumed; project: the study's or run's folder name;
    folder: for the tracker's files, may be missing; config: dotted key -> value, a list as its JSON."""

    name: str
    project: str
    folder: Path
    config: JsonObject


class OpenRun(Protocol):
    """A run inside a tracker. accelerate's `GeneralTracker` is one."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """A point: series -> value; step: tokens consumed so far, which only grow."""

    def finish(self) -> None:
        """No point will follow."""


class Tracker(ABC):
    """One kind of tracker. Several of its runs may be open at a time, one for each member of a stack.

    Whatever is raised is told in one line and ends the tracking; the training goes on. Standard output goes to standard error.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ()
    """Optional packages that it cannot do without."""

    @abstractmethod
    def start(self, run: TrackedRun) -> OpenRun:
        """Begin a run, or go on with it where one of this name has been begun."""


class Service(Tracker):
    """accelerate's adapter of the same name."""

    def options(self, run: TrackedRun) -> JsonObject:
        """What the client is given besides project, name and configuration."""
        return {}

    def start(self, run: TrackedRun) -> OpenRun:
        run.folder.mkdir(exist_ok=True)
        # Told the configuration at once: accelerate would tell it to "the current run", and a stack has several.
        given = {"name": run.name, "config": run.config, "resume": "allow", **self.options(run)}
        made: Any = LOGGER_TYPE_TO_CLASS[self.name](run.project, **given)
        copy_context().run(made.start)  # trackio ends the run that its context holds when another one starts
        opened: OpenRun = made
        return opened
