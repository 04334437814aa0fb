"""TensorBoard: event files under OUT/trackers, a folder for each run."""

from __future__ import annotations

from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from isolora.training.trackers.base import OpenRun, TrackedRun, Tracker


class TensorBoard(Tracker):
    name = "tensorboard"
    requires = ("tensorboard",)

    def start(self, run: TrackedRun) -> OpenRun:
        made: Any = LOGGER_TYPE_TO_CLASS[self.name](run.name, run.folder)
        made.start()
        made.store_init_configuration(run.config)
        opened: OpenRun = made
        return opened


tracker = TensorBoard()
