"""trackio: the SQLite file that it keeps for each project, or a folder of them. Needs no package.

Table `metrics` holds run_name, step and the metrics as JSON; `configs`, in later versions, run_name and the settings as JSON.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from isolora.errors import TableError
from isolora.imports.base import Importer, LoggedRun, Read, by_step, dotted_settings
from isolora.json_types import JsonObject
from isolora.store import reading
from isolora.table.foreign import parsed_json


class TrackioImporter(Importer):
    name = "trackio"
    reads = "a project's .db file, or trackio's folder of them"

    def read(self, source: Path) -> Read:
        paths = sorted(source.glob("*.db")) if source.is_dir() else [source]
        runs = [run for path in paths for run in _runs(path, len(paths) > 1)]
        if not runs:
            raise self.refuse(source)
        return Read(tuple(runs))


def _runs(path: Path, several: bool) -> list[LoggedRun]:
    """The runs of a project; with the project's name before theirs where there are several projects."""
    try:
        with reading(path) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            if "metrics" not in tables:
                return []
            logged = connection.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
            known = connection.execute("SELECT run_name, config FROM configs").fetchall() if "configs" in tables else []
    except sqlite3.Error as error:
        raise TableError(f"SOURCE: {path} is no database of trackio: {error}") from error
    configs = {run: _object(config) for run, config in known}
    pieces: dict[str, list[tuple[float, JsonObject]]] = {}
    for run, step, metrics in logged:
        pieces.setdefault(run, []).append((step, _object(metrics)))
    prefix = f"{path.stem}/" if several else ""
    return [LoggedRun(f"{prefix}{run}", configs.get(run, {}), by_step(own)) for run, own in pieces.items()]


def _object(text: Any) -> JsonObject:
    """An object from JSON text or bytes, one level deep; keys that trackio keeps for itself begin with an underscore."""
    found = parsed_json(text, "a row of trackio's")
    return (
        {key: value for key, value in dotted_settings(found).items() if not key.startswith("_")}
        if isinstance(found, dict)
        else {}
    )


importer = TrackioImporter()
