"""Architectures known by their shape alone: the transformers configurations of published models, packaged as facts."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from isolora.json_types import JsonObject
from isolora.models.uninitialised import without_initialisers


@dataclass(frozen=True)
class Architecture:
    """A published model's shape; `parameters` is the count that its publisher's weights have in `auto_class`."""

    name: str
    config: JsonObject
    parameters: int
    auto_class: str
    source: str
    aliases: tuple[str, ...] = ()


@cache
def packaged_architectures() -> dict[str, Architecture]:
    """Every packaged architecture under its hub id; `org--model.json` holds `org/model`."""
    root = Path(str(resources.files("isolora") / "assets" / "architectures"))
    return {path.stem.replace("--", "/"): _read(path) for path in sorted(root.glob("*.json"))}


def _read(path: Path) -> Architecture:
    return Architecture(path.stem.replace("--", "/"), **json.loads(path.read_text(encoding="utf-8")))


def by_name() -> dict[str, Architecture]:
    """The same, under older ids too."""
    return packaged_architectures() | {
        alias: architecture for architecture in packaged_architectures().values() for alias in architecture.aliases
    }


def on_meta(configuration: object, auto_class: str, trust_remote_code: bool = False) -> Any:
    """The model of a transformers configuration on the `meta` device: modules and shapes, no weights."""
    import torch
    import transformers

    own = deepcopy(configuration)  # some models change what they are given: T5's token classifier makes it an encoder's
    with torch.device("meta"), without_initialisers():
        model = getattr(transformers, auto_class).from_config(own, dtype=torch.float32, trust_remote_code=trust_remote_code)
        head = model.get_output_embeddings()
        # T5 1.1 has a head of its own, but transformers 5 ties it in every model that it does not load weights into
        if head is not None and getattr(model.config, "scale_decoder_outputs", True) is False:
            head.weight = torch.nn.Parameter(torch.empty_like(head.weight))
    return model.eval()
