"""Who drives the steps of a run: our own loop, or a Trainer of transformers' or TRL's over the same batches and weights."""

from __future__ import annotations

import importlib
from typing import Any

from isolora.errors import MissingExtra
from isolora.training.loop import own_steps


def driver(trainer: str) -> Any:
    """What `Stack.train` is given as `drive`, by its name in `training.trainer`. Raises MissingExtra where TRL is missing."""
    if trainer == "native":
        return own_steps
    try:
        return importlib.import_module(f"isolora.training.backends.{trainer}").drive
    except ModuleNotFoundError as failure:
        if failure.name != "trl":
            raise
        raise MissingExtra("trl", "trl") from None
