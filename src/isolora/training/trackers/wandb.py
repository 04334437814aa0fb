"""Weights & Biases."""

from __future__ import annotations

from isolora.json_types import JsonObject
from isolora.training.trackers.base import Service, TrackedRun


class Wandb(Service):
    name = "wandb"
    requires = ("wandb",)

    def options(self, run: TrackedRun) -> JsonObject:
        return {"id": run.name, "dir": run.folder, "reinit": "create_new"}


tracker = Wandb()
