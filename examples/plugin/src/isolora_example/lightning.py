"""Lightning's CSVLogger: `metrics.csv` in a version's folder, with the run's settings beside it in `hparams.yaml`."""

from __future__ import annotations

import csv
from pathlib import Path

import yaml

from isolora.extend import Importer, LoggedRun, Read, TableError, by_step

METRICS, SETTINGS = "metrics.csv", "hparams.yaml"


class Lightning(Importer):
    name = "lightning"
    reads = f"a {METRICS} of CSVLogger, or a folder with some below it"

    def read(self, source: Path) -> Read:
        paths = [source] if source.is_file() else sorted(source.rglob(METRICS))
        if not paths:
            raise self.refuse(source)
        return Read(tuple(logged_run(path) for path in paths))


def logged_run(path: Path) -> LoggedRun:
    """A version's history; its cells are text, which is read as numbers where it is some."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or "step" not in rows[0]:
        raise TableError(f"SOURCE: {path} has no column step")
    settings = path.with_name(SETTINGS)
    config = yaml.safe_load(settings.read_text(encoding="utf-8")) if settings.is_file() else None
    history = by_step((row["step"], {name: value for name, value in row.items() if value}) for row in rows)
    return LoggedRun(path.parent.name, config or {}, history)


importer = Lightning()
