"""Base models: packaged names, local folders and hub ids, loaded by transformers' ordinary `from_pretrained`."""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from isolora.config import RunConfig
from isolora.errors import ConfigError


@dataclass(frozen=True)
class Base:
    """A loaded base model with its tokenizer. Weight counts: `body_parameters` leaves embeddings and the output head out."""

    name: str
    model: Any
    tokenizer: Any
    body_parameters: int
    model_parameters: int
    max_length: int


def packaged() -> dict[str, Path]:
    """Models that come with isolora: name -> folder."""
    root = Path(str(resources.files("isolora") / "assets" / "nano"))
    return {path.parent.name: path.parent for path in sorted(root.glob("*/config.json"))}


def locate(name: str) -> str:
    """What `from_pretrained` is given: the packaged folder, a local folder, or the hub id itself."""
    if name in packaged():
        return str(packaged()[name])
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise ConfigError(f"model: folder {name} has no config.json")
        return name
    return name


def load(config: RunConfig, auto_class: str) -> Base:
    """Load weights and tokenizer in float32. Raises ConfigError with one line when the name leads nowhere."""
    import transformers

    tokenizer = load_tokenizer(config)
    try:
        model = getattr(transformers, auto_class).from_pretrained(
            locate(config.model), dtype="float32", trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError) as failure:
        raise ConfigError(_not_found(config.model, failure)) from None
    model.eval()
    model.name_or_path = config.model  # what an adapter's file names as its base: the name a person gave, not a path
    return measured(config.model, model, tokenizer)


def load_tokenizer(config: RunConfig) -> Any:
    """The tokenizer alone."""
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(locate(config.model), trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError) as failure:
        raise ConfigError(_not_found(config.model, failure)) from None


def load_architecture(config: RunConfig) -> Any:
    """The transformers configuration alone."""
    import transformers

    try:
        return transformers.AutoConfig.from_pretrained(locate(config.model), trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError) as failure:
        raise ConfigError(_not_found(config.model, failure)) from None


def skeleton(config: RunConfig, auto_class: str) -> Base:
    """The same model without weights, on the `meta` device: enough for the ledger."""
    import torch
    import transformers

    model_config = load_architecture(config)
    with torch.device("meta"):
        model = getattr(transformers, auto_class).from_config(model_config, trust_remote_code=config.trust_remote_code)
    model.eval()
    return measured(config.model, model, None)


def measured(name: str, model: Any, tokenizer: Any) -> Base:
    """Count the weights, each shared one once."""
    embeddings = {
        id(layer.weight) for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None
    }
    sizes = {id(parameter): parameter.numel() for parameter in model.parameters()}
    body = sum(size for key, size in sizes.items() if key not in embeddings)
    return Base(name, model, tokenizer, body, sum(sizes.values()), positions(model.config))


def positions(architecture: Any) -> int:
    """The longest sequence that a model takes, in tokens; 1,024 where its configuration sets no bound."""
    return int(getattr(architecture, "max_position_embeddings", None) or 1024)


def fingerprint(name: str) -> str:
    """Identity of the weights behind a name: file hashes for a folder, the id itself for a hub model."""
    place = Path(locate(name))
    if not place.is_dir():
        return name
    files = sorted([*place.glob("*.json"), *place.glob("*.safetensors")])
    return _digest(tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files))


@cache
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Hash over names and contents of (path, time of change, size); read again only when one of them has changed."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _not_found(name: str, failure: Exception) -> str:
    near = difflib.get_close_matches(name, packaged(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    reason = str(failure).strip().split("\n")[0][:160]
    return f"model: cannot load {name!r}{hint} (packaged: {', '.join(packaged())}; or a local folder, or a hub id: {reason})"


def describe(name: str) -> dict[str, Any]:
    """A packaged model's configuration."""
    described: dict[str, Any] = json.loads((packaged()[name] / "config.json").read_text(encoding="utf-8"))
    return described
