"""isolora's own steps, each followed by a rest of the same length, for a laptop that has other things to do."""

from __future__ import annotations

import time

from isolora.extend import Loop, Trainer


class Gentle(Trainer):
    name = "gentle"
    stackable = True

    def drive(self, loop: Loop) -> None:
        while loop.stack.running:
            started = time.perf_counter()
            with loop.watched_step():
                loop.stack.step()
            loop.after_step()
            time.sleep(min(1.0, time.perf_counter() - started))


trainer = Gentle()
