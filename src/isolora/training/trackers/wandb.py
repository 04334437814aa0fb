"""Weights & Biases."""

from __future__ import annotations

from typing import Any

from isolora.training.trackers.base import TrackedRun
from isolora.training.trackers.service import Service


class Wandb(Service):
    name = "wandb"
    requires = ("wandb",)

    def options(self, run: TrackedRun) -> dict[str, Any]:
        return {"id": run.name, "dir": run.folder, "reinit": "create_new"}


tracker = Wandb()
