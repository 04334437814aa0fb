"""Prices of one step that have been asked for before: the same question over the same files is answered without torch.

A question is known by its own words, before anything is validated: whoever validated it the first time had the same sources.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path

import numpy as np

from isolora.child_process import beside_accelerator
from isolora.config import RunConfig, content_hash, read_yaml, with_word
from isolora.cost import kept, step_rates
from isolora.cost.accelerators import Place
from isolora.cost.run_price import Cost, Memory
from isolora.cost.time import predicted_seconds
from isolora.json_types import JsonMapping, JsonObject
from isolora.ledger import Flops
from isolora.paths import is_folder

Shape = tuple[int, int]


def find_answer(path: Path | None, words: Sequence[str], shape: Shape | None, place: Place) -> Cost | None:
    """The answer to this question, where it was given before and its files are what they were."""
    said = kept.read_kept("answers", _question(path, words, shape))
    if said is None or any(_digest(Path(name)) != digest for name, digest in said["files"].items()):
        return None
    flops = Flops(np.array(said["flops"]))
    took = predicted_seconds(step_rates.stored_under(said["timed_as"]), said["precision"], flops, said["micro_batches"], place)
    return Cost(**{**said["cost"], "flops": flops, "memory": Memory(**said["cost"]["memory"]), "duration": took})


def keep(path: Path | None, words: Sequence[str], shape: Shape | None, config: RunConfig, answer: Cost) -> None:
    """Keep the answer, where its model's files can be seen to change."""
    files = _files(config)
    if files and kept.ours(config):
        flops, plain = answer.flops.table.tolist(), asdict(replace(answer, flops=Flops(), duration=None))
        del plain["flops"]
        micro_batches = answer.steps * min(config.training.accumulation or 1, shape[0] if shape else 1)
        said = {
            "files": files,
            "timed_as": step_rates.what(config),
            "precision": config.training.precision,
            "micro_batches": micro_batches,
        }
        kept.write_kept("answers", _question(path, words, shape), {**said, "flops": flops, "cost": plain})


def _question(path: Path | None, words: Sequence[str], shape: Shape | None) -> str | None:
    """None for what is not kept: whole runs, which depend on data, and machines whose device is not known without torch."""
    if shape is None or beside_accelerator():
        return None
    given: JsonObject = read_yaml(path) if path else {}
    for word in words:
        given = with_word(given, word)
    if "data" in given:  # its card may set the task
        return None
    asked = [given, shape, os.environ.get("ISOLORA_MODELS"), _folder(given)]
    try:
        return content_hash([*asked, *kept.surroundings()])
    except TypeError:  # a YAML value that no setting takes
        return None


def _folder(given: JsonMapping) -> str:
    """Where the model is, if its name is that of a folder here."""
    name = str(given.get("model", ""))
    return str(Path(name).resolve()) if name and is_folder(name) else ""


def _files(config: RunConfig) -> dict[str, str]:
    """File -> digest of what says how the model is built; none for a model that lies on the hub."""
    from isolora import models
    from isolora.models import architectures

    folder = Path(models.locate(config.model))
    if folder.is_dir():
        found = folder / "config.json"
    elif facts := architectures.by_name().get(config.model):
        root = Path(str(resources.files("isolora") / "assets" / "architectures"))
        found = root / f"{facts.name.replace('/', '--')}.json"
    else:
        return {}
    return {str(found.resolve()): _digest(found)}


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
