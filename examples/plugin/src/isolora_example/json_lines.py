"""Points as lines of JSON, a file for each run: `OUT/trackers/RUN.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from isolora.extend import TrackedRun, Tracker


class JsonLinesRun:
    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a", encoding="utf-8")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.file.write(json.dumps({"tokens": step, **values}) + "\n")
        self.file.flush()

    def finish(self) -> None:
        self.file.close()


class JsonLines(Tracker):
    name = "json-lines"

    def start(self, run: TrackedRun) -> JsonLinesRun:
        return JsonLinesRun(run.folder / f"{run.name}.jsonl")


tracker = JsonLines()
