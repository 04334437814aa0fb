"""torch's compiler, imported when somebody compiles; and other imports of libraries that are not made, or not made twice.

transformers imports the compiler for decorators and a class, torch's optimisers and tensors without values to be left alone by
it, and with it come distributed tensors: 1.0 of the 3.8 processor seconds that the imports of a study's workers took, and of a
command's. `torch._dynamo` is a package that knows no more than how to leave functions alone, until it is asked for anything else.

transformers' parts for a model cut over several processes import distributed tensors once more. They are told that there are
none, unless a launcher has started several processes. And transformers reads all of its models' files for what they export twice.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial, wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
LIGHT = tuple(f"{COMPILER}.{name}" for name in ("config", "_trace_wrapped_higher_order_op"))
"""Its modules that need nothing else of it."""
CUT_MODELS, LISTING = "transformers.distributed.", "transformers.utils.import_utils"
LISTS, ASKED = "create_import_structure_from_path", "is_torch_distributed_available"

_loading = RLock()
_to_allow: list[Any] = []


def defer_imports() -> None:
    """From here on in this process, where nobody has imported torch yet. Twice does no more than once."""
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    if alone and "torch" not in sys.modules and not any(isinstance(each, _Finder) for each in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.startswith(f"{COMPILER}.") and name not in LIGHT:
            return _of_loaded(name)
        changed = _change(name)
        spec = PathFinder.find_spec(name, path, target) if changed else None
        if spec is not None and spec.loader is not None and changed is not None:
            spec.loader = changed(spec.loader)
        return spec


def _change(name: str) -> Callable[[Loader], Loader] | None:
    if name.startswith(CUT_MODELS):
        return _Alone
    changed: dict[str, Callable[[Loader], Loader]] = {COMPILER: _Later, LISTING: _Listing}
    return changed.get(name)


class _Wrapped(Loader):
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)


class _Later(_Wrapped):
    """Makes a package whose own code is run when it is asked for a name that it does not know."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Compiler(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        known = {"disable": _left_alone, "allow_in_graph": _allowed, "assume_constant_result": _constant, "graph_break": _nothing}
        vars(module).update(known)


class _Compiler(ModuleType):
    """`torch._dynamo` before it is loaded; then it is a module like any other."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if f"{COMPILER}.{name}" in LIGHT:
            return import_module(f"{COMPILER}.{name}")
        _load(self)
        return getattr(self, name)


def _load(compiler: ModuleType) -> None:
    """Run the package's own code, in the module that everybody has already."""
    with _loading:
        spec = compiler.__spec__
        if not isinstance(compiler, _Compiler) or spec is None or not isinstance(spec.loader, _Later):
            return
        compiler.__class__ = ModuleType  # type: ignore[assignment]
        spec.loader = compiler.__loader__ = spec.loader.loader
        spec.loader.exec_module(compiler)
        while _to_allow:
            compiler.allow_in_graph(_to_allow.pop())


def _of_loaded(name: str) -> ModuleSpec | None:
    """For a module of the compiler, which is loaded first, since its modules import one another in an order of their own. None
    where that has brought nothing of the name, or has been done."""
    compiler = sys.modules[COMPILER]
    if not isinstance(compiler, _Compiler):
        return None
    _load(compiler)
    return ModuleSpec(name, _Present(sys.modules[name])) if name in sys.modules else None


class _Present(Loader):
    """Gives a module that is there."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


def _left_alone(fn: Any = None, recursive: bool = True, **more: Any) -> Any:
    """`torch._dynamo.disable`: a function that no compiler looks into, decided at each call, since one may come later."""
    if fn is None:
        return partial(_left_alone, recursive=recursive, **more)

    @wraps(fn)
    def called(*given: Any, **named: Any) -> Any:
        compiler = sys.modules[COMPILER]
        alone = fn if isinstance(compiler, _Compiler) else compiler.disable(fn, recursive, **more)
        return alone(*given, **named)

    return called


def _allowed(fn: Any) -> Any:
    """`torch._dynamo.allow_in_graph`, told to the compiler when it has come."""
    _to_allow.append(fn)
    return fn


def _constant(fn: Any) -> Any:
    """`torch._dynamo.assume_constant_result`, as torch has it."""
    fn._dynamo_marked_constant = True
    return fn


def _nothing(*given: object) -> None:
    """`torch._dynamo.graph_break`, where nothing is compiled."""


class _Alone(_Wrapped):
    """Runs a module's code while transformers says that torch has no distributed part."""

    def exec_module(self, module: ModuleType) -> None:
        with _told_alone():
            self.loader.exec_module(module)


@contextmanager
def _told_alone() -> Iterator[None]:
    from transformers import utils
    from transformers.utils import import_utils

    known = vars(import_utils)[ASKED]
    for module in (utils, import_utils):
        setattr(module, ASKED, lambda: False)
    try:
        yield
    finally:
        for module in (utils, import_utils):
            setattr(module, ASKED, known)


class _Listing(_Wrapped):
    """Remembers every folder's exports; transformers remembers those of 128, has more than 400, and goes through them twice."""

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        plain = getattr(vars(module).get(LISTS), "__wrapped__", None)
        if plain is not None:
            setattr(module, LISTS, cache(plain))
