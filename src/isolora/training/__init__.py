"""One training loop: a stack of K members on one frozen base.

The names load when they are first used, so that a look at who trains in a folder loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isolora.training.training_run import train, train_stack

__all__ = ["train", "train_stack"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'isolora.training' has no attribute {name!r}")
    return getattr(import_module("isolora.training.training_run"), name)
