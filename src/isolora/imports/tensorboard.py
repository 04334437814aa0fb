"""TensorBoard: every folder with event files is a run. Reads scalars, and the settings that transformers writes as text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isolora.imports.base import Importer, LoggedRun, Read, by_step, dotted_settings, foreign_yaml
from isolora.json_types import JsonObject


class TensorBoardImporter(Importer):
    name = "tensorboard"
    requires = ("tensorboard",)
    reads = "a folder with event files (events.out.tfevents.*) in it or below it"

    def read(self, source: Path) -> Read:
        from tensorboard.backend.event_processing import event_accumulator

        files = [source] if source.is_file() else sorted(source.rglob("*tfevents*"))
        folders = sorted({path.parent for path in files})
        if not folders:
            raise self.refuse(source)
        root = source.parent if source.is_file() else source
        runs = []
        for folder in folders:
            events = event_accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
            name = str(folder.relative_to(root)) if folder != root else folder.resolve().name
            runs.append(LoggedRun(name, _settings(events, folder), by_step(_scalars(events))))
        return Read(tuple(run for run in runs if run.history or run.config))


def _scalars(events: Any) -> Iterator[tuple[float, JsonObject]]:
    """Scalars, as the old and the new writers keep them, with the seconds since the first event."""
    from tensorboard.util import tensor_util

    first = None
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            first = event.wall_time if first is None else min(first, event.wall_time)
            yield event.step, {tag: event.value}
    for tag in events.Tags()["tensors"]:
        for event in events.Tensors(tag):
            value = tensor_util.make_ndarray(event.tensor_proto)
            if value.size == 1 and value.dtype.kind in "fiu":
                yield event.step, {tag: float(value.reshape(-1)[0])}


def _settings(events: Any, folder: Path) -> JsonObject:
    """Text summaries that hold JSON objects, such as transformers' `args`, and accelerate's hparams.yml."""
    from tensorboard.util import tensor_util

    found: JsonObject = {}
    for tag in events.Tags()["tensors"]:
        for event in events.Tensors(tag):
            value = tensor_util.make_ndarray(event.tensor_proto)
            if value.dtype.kind == "O" and value.size:
                found |= _object(value.reshape(-1)[0])
    return found | _hparams(folder)


def _object(given: Any) -> JsonObject:
    try:
        parsed = json.loads(given)
    except (TypeError, ValueError):
        return {}
    return dotted_settings(parsed) if isinstance(parsed, dict) else {}


def _hparams(folder: Path) -> JsonObject:
    """The file in which accelerate keeps a run's settings."""
    for path in (*folder.glob("hparams.y*ml"), *folder.glob("*/hparams.y*ml")):
        parsed = foreign_yaml(path)
        if isinstance(parsed, dict):
            return dotted_settings(parsed)
    return {}


importer = TensorBoardImporter()
