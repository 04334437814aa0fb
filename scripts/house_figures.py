"""Figures of the source tree, to judge a change of its structure: python scripts/house_figures.py [SRC/isolora] [--json]

Scripts under `assets/` made the packaged data and are not counted.
"""

from __future__ import annotations

import argparse
import ast
import json
import statistics
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "src" / "isolora"
ALLOWED_TWICE = {"__init__", "main", "Settings", "law", "method", "task", "figure", "base.py"}
"""What every plug-in of a kind must call the same; `figure`: each picture of a report; `base.py`: what a plug-in of a kind is."""
PLUG_INS = ("imports", "training/trackers", "training/backends", "study/executors", "laws", "methods", "tasks")
"""Folders of kinds: two kinds may have a plug-in of the same name, and so a file."""


def trees(root: Path) -> dict[str, tuple[str, ast.Module]]:
    files = [path for path in sorted(root.rglob("*.py")) if "assets" not in path.relative_to(root).parts]
    texts = {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in files}
    return {name: (text, ast.parse(text)) for name, text in texts.items()}


def figures(root: Path) -> dict[str, Any]:
    found = trees(root)
    lines = [text.count("\n") for text, _ in found.values()]
    functions = [node for _, tree in found.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    lengths = sorted(node.end_lineno - node.lineno + 1 for node in functions if node.end_lineno)
    classes = [node for _, tree in found.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    largest = max(classes, key=lambda node: (node.end_lineno or 0) - node.lineno)
    return {
        "files": len(found),
        "lines": sum(lines),
        "median_lines": statistics.median(lines),
        "files_under_50": sum(count < 50 for count in lines),
        "files_over_400": [name for name, (text, _) in found.items() if text.count("\n") > 400],
        "function_median": statistics.median(lengths),
        "function_90_percent": lengths[int(0.9 * len(lengths))],
        "function_longest": lengths[-1],
        "largest_class": [largest.name, (largest.end_lineno or 0) - largest.lineno + 1],
        "private_imports_across_folders": private_imports(found),
        "caches": caches(found),
        "any": sum(isinstance(n, ast.Name) and n.id == "Any" for _, tree in found.values() for n in ast.walk(tree)),
        "defined_twice": defined_twice(found),
    }


def private_imports(found: dict[str, tuple[str, ast.Module]]) -> int:
    """Imports of an underscore module, or of an underscore name, from another folder."""
    count = 0
    for name, (_, tree) in found.items():
        folder = Path(name).parent.parts
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("isolora."):
                parts = str(node.module).split(".")[1:]
                private = any(part.startswith("_") for part in parts) or any(a.name.startswith("_") for a in node.names)
                count += private and tuple(parts[: len(folder)]) != folder
    return count


def caches(found: dict[str, tuple[str, ast.Module]]) -> list[str]:
    """Functions kept by functools' caches: file, name and arguments."""
    kept = []
    for name, (_, tree) in found.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                for decorator in node.decorator_list:
                    called = decorator.func if isinstance(decorator, ast.Call) else decorator
                    if ast.unparse(called).split(".")[-1] in ("cache", "lru_cache"):
                        kept.append(f"{name}:{node.name}({', '.join(a.arg for a in node.args.args)})")
    return kept


def defined_twice(found: dict[str, tuple[str, ast.Module]]) -> dict[str, list[str]]:
    """Public functions and classes that several files define at their top, and files of the same name.

    A command of the command line bears the name of the function that it calls, and is not counted beside it.
    """
    places: dict[str, list[str]] = defaultdict(list)
    for name, (_, tree) in found.items():
        if Path(name).parts[0] == "cli":
            continue
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name)
    twice = {name: where for name, where in places.items() if len(where) > 1 and name not in ALLOWED_TWICE}
    stems = Counter(Path(name).stem for name in found)
    twice |= {
        f"{stem}.py": [n for n in found if Path(n).stem == stem]
        for stem, count in stems.items()
        if count > 1 and f"{stem}.py" not in ALLOWED_TWICE and stem != "__init__"
    }
    twice = {name: where for name, where in twice.items() if not all(str(Path(n).parent) in PLUG_INS for n in where)}
    return dict(sorted(twice.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("source", nargs="?", type=Path, default=SOURCE)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = figures(given.source)
    if given.json:
        print(json.dumps(found, indent=1))
        return
    for name, value in found.items():
        if isinstance(value, dict):
            print(f"{name:32} {len(value)}")
            for key, where in value.items():
                print(f"    {key}: {', '.join(where)}")
        elif isinstance(value, list) and name == "caches":
            print(f"{name:32} {len(value)}", *value, sep="\n    ")
        else:
            print(f"{name:32} {value}")


if __name__ == "__main__":
    main()
