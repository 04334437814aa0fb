"""Who drives the steps of a run: our own loop, or a Trainer of transformers' or TRL's over the same batches and weights."""

from __future__ import annotations

import importlib

from isolora.errors import MissingExtra
from isolora.training.loop import Drive, drive_natively


def driver(trainer: str) -> Drive:
    """What `Loop.run` is given as `drive`, by its name in `training.trainer`. Raises MissingExtra where TRL is missing."""
    if trainer == "native":
        return drive_natively
    try:
        drive: Drive = importlib.import_module(f"isolora.training.backends.{trainer}").drive
    except ModuleNotFoundError as failure:
        if failure.name != "trl":
            raise
        raise MissingExtra("trl", "trl") from None
    return drive
