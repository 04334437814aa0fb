"""Python's search for circular garbage, kept away from imports: nearly all that libraries make when they are imported stays.

torch, transformers and what they bring are half a million objects. Looking through them again and again took 1.0 of the 4.5
processor seconds before a study hands out its first stack, and 0.8 at the end of a command.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

AS_USUAL, SELDOM = gc.get_threshold(), (50_000, 20, 50)
"""New objects before the youngest are looked through, and how often the older ones are."""


def collect_seldom() -> None:
    """From here on look for garbage seldom, and not at all when the process ends: commands import libraries on all their way."""
    gc.set_threshold(*SELDOM)
    atexit.register(gc.freeze)


def collect_as_usual() -> None:
    """From here on look for garbage as often as Python does, since tensors may hang on it; what there is by now is left alone.

    To be called before anything large is loaded. Whoever has not asked for `collect_seldom` sees no change.
    """
    if gc.get_threshold() == SELDOM:
        gc.freeze()
        gc.set_threshold(*AS_USUAL)


@contextmanager
def without_collection() -> Iterator[None]:
    """Within the context nothing looks for garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
