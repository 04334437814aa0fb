"""Plug-ins found by file name: `laws/additive.py` is the law `additive`; packages outside join by entry points.

A plug-in module ends in one object named after its kind: `law`, `task` or `method`.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from isolora.errors import ConfigError, unknown


def names(kind: str) -> list[str]:
    """Every plug-in of a kind (`law`, `task`, `method`), sorted; imports none of them."""
    return sorted({*_own(kind), *_foreign(kind)})


@cache
def load(kind: str, name: str) -> Any:
    """The plug-in object; `peft:vera` is the variant `vera` of the plug-in `peft`. Raises ConfigError, naming the valid choices,
    when there is none of that name."""
    name, _, variant = name.partition(":")
    if variant:
        return load(kind, name).variant(variant)
    if name in _own(kind):
        module = importlib.import_module(f"isolora.{kind}s.{name.replace('-', '_')}")
        return getattr(module, kind)
    if name in _foreign(kind):
        return _foreign(kind)[name].load()
    raise ConfigError(unknown(kind, name, names(kind)))


@cache
def _own(kind: str) -> frozenset[str]:
    package = importlib.import_module(f"isolora.{kind}s")
    found = (module.name for module in pkgutil.iter_modules(package.__path__))
    return frozenset(name.replace("_", "-") for name in found if not name.startswith("_"))


@cache
def _foreign(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"isolora.{kind}s")}
