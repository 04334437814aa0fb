"""Imports of libraries without what they bring along for things that isolora does not do; whoever wants those has them later."""

from __future__ import annotations

import importlib
import sys
from typing import Any


def import_peft() -> None:
    """Import PEFT without bitsandbytes, which is not looked for until somebody asks for it.

    PEFT imports it in case that a quantised model is to be searched for layers to adapt, and with it comes torch's compiler: 0.75
    of the 4.1 processor seconds that workers' imports took.
    """
    if sys.modules.keys() & {"bitsandbytes", "peft"}:
        return
    sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # an import of it is an ImportError, which PEFT expects
    try:
        importlib.import_module("peft")
    finally:
        del sys.modules["bitsandbytes"]


def import_modeling() -> None:
    """Import nearly all that any architecture's module of transformers imports, without scipy.

    Its losses for detecting objects import scipy's optimisers, 0.4 of 4.7 processor seconds before a study's workers begin. They
    find scipy when they are called.
    """
    from transformers import utils

    if "transformers.loss" in sys.modules:
        importlib.import_module("transformers.modeling_layers")
        return
    known = utils.is_scipy_available
    utils.is_scipy_available = lambda: False
    try:
        importlib.import_module("transformers.modeling_layers")
    finally:
        utils.is_scipy_available = known
    if known():
        _give_back(known)


def _give_back(known: object) -> None:
    """What the modules that were told there is no scipy would have from it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("transformers.") and vars(module).get("is_scipy_available", known) is not known:
            vars(module).update(is_scipy_available=known, linear_sum_assignment=_linear_sum_assignment)


def _linear_sum_assignment(*given: Any, **more: Any) -> Any:
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(*given, **more)
