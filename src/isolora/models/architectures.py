"""Architectures known by their shape alone: the transformers configurations of published models, packaged as facts.

Models of them are made on `meta`, and no weights are drawn. Some initialisers loop until values please them: torch's
`trunc_normal_`, which ModernBERT's heads use, never ends on tensors that have no values.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from isolora.json_types import JsonObject

MISSING = object()


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Within the context `owner.name` is `value`; owner: a module, a class, or a dictionary."""
    held = owner if isinstance(owner, dict) else vars(owner)
    before = held.get(name, MISSING)
    _set(owner, name, value)
    try:
        yield
    finally:
        _set(owner, name, before)


def _set(owner: object, name: str, value: object) -> None:
    if isinstance(owner, dict):
        owner[name] = value
    elif value is MISSING:
        delattr(owner, name)
    else:
        setattr(owner, name, value)


@contextmanager
def without_initialisers() -> Iterator[None]:
    """Weights that are made within the context stay as they are: torch's and transformers' initialisers do nothing."""
    from transformers import initialization

    modules = [sys.modules[name] for name in initialization.TORCH_MODULES_TO_PATCH if name in sys.modules]
    with ExitStack() as opened:
        for owner in (*modules, initialization, initialization.TORCH_INIT_FUNCTIONS):
            held = owner if isinstance(owner, dict) else vars(owner)
            for name in [name for name in initialization.TORCH_INIT_FUNCTIONS if name in held]:
                opened.enter_context(replaced(owner, name, _unchanged))
        yield


def _unchanged(tensor: object = None, *_: object, **__: object) -> Any:
    return tensor


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
