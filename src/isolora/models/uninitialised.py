"""Models whose weights are never drawn: shapes alone are asked for, and some initialisers loop until values please them.

torch's `trunc_normal_`, which ModernBERT's heads use, never ends on tensors that have no values.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

MISSING = object()


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Within the context `owner.name` is `value`; owner: a module, a class, or a dictionary."""
    held = owner if isinstance(owner, dict) else vars(owner)
    before = held.get(name, MISSING)
    _set(owner, name, value)
    try:
        yield
    finally:
        _set(owner, name, before)


def _set(owner: object, name: str, value: object) -> None:
    if isinstance(owner, dict):
        owner[name] = value
    elif value is MISSING:
        delattr(owner, name)
    else:
        setattr(owner, name, value)


@contextmanager
def without_initialisers() -> Iterator[None]:
    """Weights that are made within the context stay as they are: torch's and transformers' initialisers do nothing."""
    from transformers import initialization

    modules = [sys.modules[name] for name in initialization.TORCH_MODULES_TO_PATCH if name in sys.modules]
    with ExitStack() as opened:
        for owner in (*modules, initialization, initialization.TORCH_INIT_FUNCTIONS):
            held = owner if isinstance(owner, dict) else vars(owner)
            for name in [name for name in initialization.TORCH_INIT_FUNCTIONS if name in held]:
                opened.enter_context(replaced(owner, name, _unchanged))
        yield


def _unchanged(tensor: object = None, *_: object, **__: object) -> Any:
    return tensor
