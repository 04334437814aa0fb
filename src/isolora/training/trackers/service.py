"""What trackio and wandb have in common: projects with runs, spoken to by accelerate's adapters."""

from __future__ import annotations

from contextvars import copy_context
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from isolora.json_types import JsonObject
from isolora.training.trackers.base import OpenRun, TrackedRun, Tracker


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
