"""PEFT's method comparison: one JSON file a run, as its MetaMathQA benchmark writes them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from isolora.imports.base import Importer, LoggedRun, Read, by_step
from isolora.json_types import JsonObject
from isolora.table.foreign import foreign_json
from isolora.table.formats import result_points

MEASURED = ("tokens", "seconds", "accuracy", "peak_memory_bytes")


class PeftImporter(Importer):
    name = "peft"
    reads = "a result of PEFT's method comparison (JSON with run_info and train_info), or a folder of them"

    def read(self, source: Path) -> Read:
        paths = sorted(source.rglob("*.json")) if source.is_dir() else [source]
        left_out: Counter[str] = Counter()
        runs = []
        for path in paths:
            found = foreign_json(path)
            if not (isinstance(found, dict) and "train_info" in found):
                left_out["files that are no results"] += 1
                continue
            name = str(path.relative_to(source).with_suffix("")) if source.is_dir() else path.stem
            runs.append(_run(name, result_points(found, name)))
        if not runs:
            raise self.refuse(source)
        return Read(tuple(runs), left_out)


def _run(name: str, points: list[JsonObject]) -> LoggedRun:
    """The run's fixed columns as settings, the rest as its history, by tokens."""
    fixed = {key: value for key, value in (points[0] if points else {}).items() if key not in (*MEASURED, "run", "loss")}
    history = (
        (
            number,
            {"tokens": row["tokens"], "seconds": row["seconds"], "train_loss": row["loss"], "eval_accuracy": row["accuracy"]},
        )
        for number, row in enumerate(points, 1)
    )
    return LoggedRun(name, fixed, by_step(history))


importer = PeftImporter()
