"""Imports only go down, the numpy wing stays free of torch, and every file is called by a name."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "isolora"

# A file imports from floors strictly below its own; files of one package also from each other, without a circle.
FLOORS = {
    0: ("errors", "garbage", "json_types", "display"),  # the ground: everybody may raise
    1: ("registry", "paths", "child_process", "lean_imports", "deferred_imports", "frozen_products"),
    2: ("caches", "data_cards", "metrics"),
    3: ("config", "store"),
    4: ("table", "tasks", "methods", "laws"),
    5: ("models", "data", "ledger", "fit", "imports"),
    6: ("runs", "plan"),
    7: ("cost", "adapters"),
    8: ("training", "report"),
    9: ("evaluation", "study", "doctor"),
    10: ("certify", "watch"),
    11: ("cli",),
    12: ("__init__", "__main__", "extend"),  # the public surfaces: gather names, nobody below looks up to them
}
FLOOR = {name: floor for floor, row in FLOORS.items() for name in row}
NUMPY_WING = ("errors", "registry", "metrics", "table", "laws", "fit", "plan", "report", "imports", "__init__")
TORCH_WING_ONLY = {"torch", "transformers", "peft", "accelerate", "datasets", "tokenizers"}
DRAWERS = {"utils", "util", "common", "helpers", "helper", "misc"}
SCRIPTS = "assets"  # made the packaged data; run once and never imported


def files() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] != SCRIPTS)


def module_of(path: Path) -> str:
    """`src/isolora/laws/additive.py` is `laws.additive`; a package's `__init__` bears the package's own name."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in files()}


def room(module: str) -> str:
    """The part of a module's name that has a floor: `laws` of `laws.additive`."""
    return module.split(".")[0]


@cache
def imported(module: str) -> tuple[frozenset[str], frozenset[str]]:
    """(modules of isolora, top names of other packages) that the file's syntax tree imports anywhere, functions included."""
    own: set[str] = set()
    foreign: set[str] = set()
    for node in ast.walk(without_type_checking(ast.parse(MODULES[module].read_text(encoding="utf-8")))):
        if isinstance(node, ast.Import):
            full = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{MODULES[module]}:{node.lineno} relative import; write it from isolora on"
            full = {resolve(f"{node.module}.{alias.name}", str(node.module)) for alias in node.names}
        else:
            continue
        own |= {name.removeprefix("isolora.") if name != "isolora" else "__init__" for name in full if is_own(name)}
        foreign |= {name.split(".")[0] for name in full if not is_own(name)}
    return frozenset(own), frozenset(foreign)


def without_type_checking(tree: ast.Module) -> ast.Module:
    """The tree that runs: `if TYPE_CHECKING:` blocks at its top are for readers of types alone."""
    kept = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    return ast.Module(kept, tree.type_ignores)


def is_own(name: str) -> bool:
    return name.split(".")[0] == "isolora"


def resolve(name: str, parent: str) -> str:
    """`from isolora.laws import additive` means the module; `from isolora.fit import fit` means its parent."""
    return name if name.removeprefix("isolora.") in MODULES else parent


def reachable(module: str) -> dict[str, str]:
    """Every isolora module that importing this one brings in, each with the module that asked for it."""
    found = {module: module}
    waiting = [module]
    while waiting:
        current = waiting.pop()
        for name in imported(current)[0] & MODULES.keys():
            if name not in found:
                found[name] = current
                waiting.append(name)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_has_a_floor(module: str) -> None:
    assert room(module) in FLOOR, f"{MODULES[module]} is on no floor; add {room(module)!r} to FLOORS in {Path(__file__).name}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    own, _ = imported(module)
    upward = sorted(
        f"{name} (floor {FLOOR.get(room(name), '?')})"
        for name in own
        if room(name) != room(module) and FLOOR.get(room(name), 99) >= FLOOR[room(module)]
    )
    assert not upward, f"{module} (floor {FLOOR[room(module)]}) imports {', '.join(upward)}"


@pytest.mark.parametrize("module", MODULES)
def test_has_no_circle(module: str) -> None:
    own, _ = imported(module)
    # A package's __init__ may gather names from its files, so a file's way back to it is not followed from there.
    circle = sorted(
        name for name in own & MODULES.keys() - {module, room(module)} if module in reachable(name) and module != room(module)
    )
    assert not circle, f"{module} and {', '.join(circle)} import each other"


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) in NUMPY_WING])
def test_numpy_wing_is_free_of_torch(module: str) -> None:
    for name in reachable(module):
        heavy = imported(name)[1] & TORCH_WING_ONLY
        assert not heavy, f"{module} reaches {', '.join(heavy)} through {name}"


def test_numpy_wing_runs_without_torch() -> None:
    wing = [f"isolora.{name}" for name in MODULES if room(name) in NUMPY_WING and name != "__init__"]
    code = f"import sys, {', '.join(['isolora', *wing])}; print(*sorted({TORCH_WING_ONLY!r} & sys.modules.keys()))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == ""


def test_files_have_names() -> None:
    drawers = [str(path) for path in files() if path.stem in DRAWERS]
    assert not drawers, f"a drawer, not a name: {', '.join(drawers)}"


def private_uses(module: str) -> Iterator[str]:
    """Underscore modules of another folder, and private names of any other module, that the file imports or reaches."""
    folder = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and is_own(str(node.module)):
            parts = str(node.module).split(".")[1:]
            for alias in node.names:
                full = [*parts, alias.name]
                as_module = ".".join(full) in MODULES
                bound |= {alias.asname or alias.name} if as_module else set()
                hidden = [place for place, part in enumerate(full) if is_private(part)]
                if hidden and not (as_module or hidden[0] < len(parts)):
                    yield f"line {node.lineno}: {alias.name} is private to {node.module}"
                elif hidden and not f"{folder}.".startswith(f"{'.'.join(full[: hidden[0]])}."):
                    yield f"line {node.lineno}: {full[hidden[0]]} is private to its folder"
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in bound
            and is_private(node.attr)
        ):
            yield f"line {node.lineno}: {node.value.id}.{node.attr} is private"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize("module", MODULES)
def test_uses_nothing_private_of_others(module: str) -> None:
    found = list(private_uses(module))
    assert not found, f"{MODULES[module]}: {'; '.join(found)}"
