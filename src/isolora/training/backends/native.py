"""isolora's own loop: all members of a stack in one step."""

from __future__ import annotations

from isolora.training.backends.base import Trainer
from isolora.training.loop import Loop, drive_natively


class Native(Trainer):
    name = "native"
    stackable = True
    data_parallel = True

    def drive(self, loop: Loop) -> None:
        drive_natively(loop)


trainer = Native()
