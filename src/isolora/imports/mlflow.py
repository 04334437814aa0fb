"""MLflow: a folder `mlruns` as its file store writes it. Needs no package.

mlruns/EXPERIMENT/meta.yaml, mlruns/EXPERIMENT/RUN/{meta.yaml, metrics/KEY, params/KEY, tags/KEY}; a metric's file holds a line
`timestamp value step` for each time it was logged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isolora.errors import TableError, in_brief
from isolora.imports.base import Importer, LoggedRun, Read, by_step, foreign_yaml, told_apart
from isolora.json_types import JsonObject
from isolora.table.columns import parse_number
from isolora.table.foreign import foreign_text


class MLflow(Importer):
    name = "mlflow"
    reads = "a folder mlruns of MLflow's file store, one experiment's or one run's folder in it"

    def read(self, source: Path) -> Read:
        folders = sorted(path.parent for path in source.rglob("meta.yaml") if (path.parent / "metrics").is_dir())
        if not folders:
            raise self.refuse(source)
        left_out: Counter[str] = Counter()
        runs = []
        for folder in folders:
            about = _meta(folder / "meta.yaml")
            if about.get("lifecycle_stage") == "deleted":
                left_out["deleted runs"] += 1
                continue
            runs.append(LoggedRun(_name(folder, about), _files(folder / "params"), by_step(_history(folder / "metrics"))))
        return Read(told_apart(runs), +left_out)


def _meta(path: Path) -> JsonObject:
    found = foreign_yaml(path)
    return found if isinstance(found, dict) else {}


def _name(folder: Path, about: JsonObject) -> str:
    tag = folder / "tags" / "mlflow.runName"
    return str(about.get("run_name") or (foreign_text(tag).strip() if tag.is_file() else "") or folder.name)


def _files(folder: Path) -> dict[str, str]:
    """One setting a file; a name with slashes lies in folders."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    return {str(path.relative_to(folder)): foreign_text(path).strip() for path in paths}


def _history(folder: Path) -> Iterator[tuple[Any, JsonObject]]:
    for key, text in _files(folder).items():
        for place, line in enumerate(text.split("\n"), 1):
            _, value, *rest = line.split() if len(line.split()) > 1 else ("", line)
            if (measured := parse_number(value)) is None:
                raise TableError(f"{str(folder / key)!r} line {place}: {in_brief(repr(value))} is no number")
            yield rest[0] if rest else 0, {key: measured}


importer = MLflow()
