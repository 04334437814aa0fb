"""Plug-ins of every kind, found by name: a file in the kind's folder, or an entry point of another package.

`laws/additive.py` is the law `additive`: a module in the kind's folder that ends in an object called after its kind
(`law = Additive()`). A data card is a folder with a `data.json`. Other packages name theirs under the entry point groups
`isolora.laws`, `isolora.tasks` and so on; what isolora has itself goes before a foreign plug-in of the same name.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, requires
from pathlib import Path
from typing import Any

from isolora.errors import ConfigError, MissingExtra, PlugInError, UserError, unknown

HERE = Path(__file__).parent
FOLDERS: Mapping[str, str] = {
    "task": "tasks",
    "method": "methods",
    "law": "laws",
    "importer": "imports",
    "trainer": "training/backends",
    "tracker": "training/trackers",
    "executor": "study/executors",
    "data_card": "assets",
}
"""Kind -> the folder in which isolora's own plug-ins of that kind lie."""
HOSTS = ("trainer", "executor")
"""Kinds that call isolora back, so that an error further inside may well be isolora's own."""


def names(kind: str) -> list[str]:
    """Every plug-in of a kind, sorted; imports none of them."""
    return sorted({*_own(kind), *_foreign(kind)})


@cache
def usable(kind: str) -> tuple[str, ...]:
    """The names that can be loaded, sorted. A plug-in from outside that cannot is told on standard error and left out."""
    found = []
    for name in names(kind):
        try:
            load_plug_in(kind, name)
        except ConfigError as failure:
            print(f"isolora: {failure}; left out", file=sys.stderr)
            continue
        found.append(name)
    return tuple(found)


@cache
def load_plug_in(kind: str, name: str) -> Any:
    """The plug-in object, of a data card its folder; `peft:vera` is the variant `vera` of the plug-in `peft`.

    Raises ConfigError, naming the valid choices, when there is none of that name, and naming the package when a plug-in from
    outside cannot be imported; MissingExtra when one of isolora's own needs a package that is not installed.
    """
    name, _, variant = name.partition(":")
    if variant:
        return load_plug_in(kind, name).variant(variant)
    if name in _own(kind):
        return _load_own(kind, _own(kind)[name])
    if name in _foreign(kind):
        return _load_foreign(kind, _foreign(kind)[name])
    raise ConfigError(unknown(kind.replace("_", " "), name, names(kind)))


def ready(kind: str, name: str) -> Any:
    """The plug-in, once the packages that it `requires` can be imported. Raises MissingExtra, beside what `load` raises."""
    plug_in = load_plug_in(kind, name)
    for package in plug_in.requires:
        try:
            importlib.import_module(package)
        except ImportError:
            raise MissingExtra(package, _extra_with(package)) from None
    return plug_in


def check_name(kind: str, name: str) -> str:
    """The name itself. Raises ConfigError, naming the valid choices, when no plug-in of the kind is called so."""
    if name not in names(kind):
        raise ConfigError(unknown(kind.replace("_", " "), name, names(kind)))
    return name


def package_of(kind: str, name: str) -> str:
    """The package that a plug-in from outside comes with; empty for isolora's own."""
    return "" if name in _own(kind) or name not in _foreign(kind) else _package(_foreign(kind)[name])


def module_of(kind: str, name: str) -> str:
    """The module that a plug-in, no data card, is the last line of."""
    return _own(kind)[name] if name in _own(kind) else _foreign(kind)[name].module


def code_digest(kind: str, name: str) -> tuple[str, ...]:
    """SHA-256 of the module of a plug-in from outside, so that what is cached of it follows its changes; nothing for isolora's
    own, which are hashed together (`data/examples.py`)."""
    if not package_of(kind, name):
        return ()
    spec = importlib.util.find_spec(module_of(kind, name))
    return (hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest(),) if spec and spec.origin else ()


def blamed(failure: BaseException) -> str:
    """`task NAME (package PKG): TypeError: ... (file:line)` where an error was raised in a foreign plug-in's code, or further
    inside what it called; empty where it was not."""
    inside = False
    where = ""
    for frame, line in reversed(list(traceback.walk_tb(failure.__traceback__))):
        module = str(frame.f_globals.get("__name__", ""))
        inside = inside or module.split(".")[0] == __name__.split(".")[0]
        owners = [(kind, point) for kind, point in _foreign_points() if _same_package(module, point.module)]
        if not owners:
            continue
        where = where or f"{frame.f_code.co_filename}:{line}"
        exact = [(kind, point) for kind, point in owners if f"{module}.".startswith(f"{point.module}.")]
        for kind, point in exact:
            if inside and kind in HOSTS:
                return ""
            return f"{_called(kind, point)}: {_told(failure)} ({where})"
    return ""


@contextmanager
def plug_ins_named() -> Iterator[None]:
    """Within the context, an unexpected error raised in a foreign plug-in becomes a PlugInError, one line that names it."""
    try:
        yield
    except (UserError, PlugInError):
        raise
    except Exception as failure:
        if line := blamed(failure):
            raise PlugInError(line) from failure
        raise


def owed(kind: str, name: str, kept: bool, line: str) -> None:
    """Raises PlugInError, one line that names the plug-in and its package, where it does not keep what its kind promises."""
    if not kept:
        package = package_of(kind, name.partition(":")[0])
        raise PlugInError(f"{kind.replace('_', ' ')} {name}{f' (package {package})' if package else ''}: {line}")


def _load_own(kind: str, place: str) -> Any:
    if kind == "data_card":
        return Path(place)
    try:
        return getattr(importlib.import_module(place), kind)
    except ModuleNotFoundError as failure:
        if extra := _extra_with(str(failure.name)):
            raise MissingExtra(str(failure.name), extra) from None
        raise


def _load_foreign(kind: str, point: EntryPoint) -> Any:
    called = f"{kind.replace('_', ' ')} {point.name} of package {_package(point)}"
    try:
        plug_in = _folder(point.module) if kind == "data_card" else point.load()
    except Exception as failure:  # a stranger's module may do anything when it is imported
        raise ConfigError(f"{called}: {_told(failure)}") from failure
    if isinstance(plug_in, type):
        raise ConfigError(f"{called}: its entry point names the class {plug_in.__name__}; name an object of it, such as {kind}")
    own = getattr(plug_in, "name", None)
    if kind != "data_card" and own != point.name:
        raise ConfigError(f"{called}: its entry point and its name must be the same word (its name is {own!r})")
    return plug_in


def _folder(package: str) -> Path:
    """Where a package of data lies; needs no `__init__.py`."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"no folder {package}")
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def _own(kind: str) -> Mapping[str, str]:
    """Plug-in's name -> its module, or its folder for a data card. A module is a plug-in when it sets a name called after the
    kind."""
    folder = HERE / FOLDERS[kind]
    if kind == "data_card":
        packaged = {path.parent.name: str(path.parent) for path in sorted(folder.glob("*/data.json"))}
        return packaged | {
            f"sample-{path.parent.name}": str(path.parent) for path in sorted(folder.glob("hub-samples/*/data.json"))
        }
    found = {}
    for module in pkgutil.iter_modules([str(folder)]):
        path = folder / module.name
        source = (path / "__init__.py" if module.ispkg else path.with_suffix(".py")).read_text(encoding="utf-8")
        if re.search(rf"^{kind}(: \w+)? = |^from \S+ import {kind}$", source, re.MULTILINE):
            found[module.name.replace("_", "-")] = f"isolora.{FOLDERS[kind].replace('/', '.')}.{module.name}"
    return found


@cache
def _foreign(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"isolora.{kind}s")}


def _foreign_points() -> list[tuple[str, EntryPoint]]:
    return [(kind, point) for kind in FOLDERS for point in _foreign(kind).values()]


def _called(kind: str, point: EntryPoint) -> str:
    return f"{kind} {point.name} (package {_package(point)})"


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.module.split(".")[0]


def _same_package(module: str, other: str) -> bool:
    return module.split(".")[0] == other.split(".")[0] != "isolora"


def _told(failure: BaseException) -> str:
    """An error in one line, with its type."""
    return f"{type(failure).__name__}: {' '.join(str(failure).split())}".rstrip(": ")


def _extra_with(package: str) -> str:
    """The extra of isolora that brings an optional package; empty where none does."""
    try:
        lines = requires("isolora") or []
    except PackageNotFoundError:  # a source tree that is not installed
        lines = []
    found = (re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]", line) for line in lines)
    extras = [match[2] for match in found if match and match[1].replace("-", "_") == package.replace("-", "_")]
    return next((extra for extra in extras if extra != "dev"), "")
