"""Plug-ins of every kind, found by name: a file in the kind's folder, or an entry point of another package.

`laws/additive.py` is the law `additive`: a module in the kind's folder that ends in an object called after its kind
(`law = Additive()`). Other packages name theirs under the entry point group `isolora.laws`, `isolora.tasks` and so on.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from isolora.errors import ConfigError, unknown

FOLDERS: Mapping[str, str] = {
    "law": "isolora.laws",
    "task": "isolora.tasks",
    "method": "isolora.methods",
}
"""Kind -> the folder whose modules are plug-ins of that kind."""


def names(kind: str) -> list[str]:
    """Every plug-in of a kind, sorted; imports none of them."""
    return sorted({*_own(kind), *_foreign(kind)})


@cache
def load(kind: str, name: str) -> Any:
    """The plug-in object; `peft:vera` is the variant `vera` of the plug-in `peft`. Raises ConfigError, naming the valid choices,
    when there is none of that name, and naming the package when a plug-in from outside cannot be imported."""
    name, _, variant = name.partition(":")
    if variant:
        return load(kind, name).variant(variant)
    if name in _own(kind):
        return getattr(importlib.import_module(_own(kind)[name]), kind)
    if name in _foreign(kind):
        return _load_foreign(kind, _foreign(kind)[name])
    raise ConfigError(unknown(kind, name, names(kind)))


def _load_foreign(kind: str, point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as failure:  # a stranger's module may do anything when it is imported
        package = point.dist.name if point.dist else point.module
        raise ConfigError(f"{kind} {point.name} of package {package}: {type(failure).__name__}: {failure}") from failure


@cache
def _own(kind: str) -> Mapping[str, str]:
    """Plug-in's name -> its module. A module is a plug-in when it sets a name called after the kind."""
    package = importlib.import_module(FOLDERS[kind])
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        path = Path(package.__path__[0]) / module.name
        source = (path / "__init__.py" if module.ispkg else path.with_suffix(".py")).read_text(encoding="utf-8")
        if re.search(rf"^{kind}(: \w+)? = |^from \S+ import {kind}$", source, re.MULTILINE):
            found[module.name.replace("_", "-")] = f"{package.__name__}.{module.name}"
    return found


@cache
def _foreign(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"isolora.{kind}s")}
