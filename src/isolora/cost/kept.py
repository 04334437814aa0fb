"""Ledgers and peaks of memory that have been rehearsed before, on the disk by the content of all that decides them.

An architecture counts by its configuration, so that a hub's model and a copy in a folder share a price. What is decided
outside of isolora, a method or a task of another package or a model's own code, is not kept: nobody would notice its changes.
"""

from __future__ import annotations

import json
from typing import Any

from isolora import registry
from isolora.caches import cache_folder, read_kept_json, sources_digest, versions, write_json
from isolora.config import RunConfig, content_hash
from isolora.json_types import JsonObject

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
ROOMS = ("config", "cost", "methods", "models", "runs", "tasks", "ledger", "registry")
"""Parts of isolora that decide a price."""


def price_key(config: RunConfig, classes: int, *more: object) -> str | None:
    """Content hash of all that decides the price of a run's step; None where it cannot be told."""
    from isolora import models

    if not ours(config):
        return None
    described = models.load_architecture(config).to_json_string(use_diff=False)
    architecture = json.loads(described, object_hook=_without_place)
    own = {name: config.model_dump()[name] for name in ("task", "method", "new_tokens")}
    checkpointing = config.training.gradient_checkpointing
    return content_hash([*surroundings(), architecture, own, checkpointing, classes, *more])


def _without_place(settings: JsonObject) -> JsonObject:
    """An architecture's settings without the folder that they were read from."""
    return {name: value for name, value in settings.items() if name != "_name_or_path"}


def ours(config: RunConfig) -> bool:
    """Whether task, method and model have no code of their own."""
    plug_ins = (registry.load_plug_in("task", config.task.name), registry.load_plug_in("method", config.method.name))
    return not config.trust_remote_code and all(type(one).__module__.startswith("isolora.") for one in plug_ins)


def surroundings() -> tuple[Any, ...]:
    """What decides every price here: libraries and isolora's own sources."""
    return versions(PACKAGES), sources_digest(ROOMS)


def read_kept(kind: str, name: str | None) -> Any:
    """What was kept under this key; None where there is nothing."""
    return None if name is None else read_kept_json(cache_folder() / kind / f"{name}.json")


def write_kept(kind: str, name: str | None, value: object) -> None:
    if name is not None:
        write_json(cache_folder() / kind / f"{name}.json", value)
