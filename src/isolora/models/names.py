"""Names of base models: packaged ones, local folders and hub ids, and what identifies the weights behind them."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import stat
from functools import cache
from importlib import resources
from pathlib import Path

from isolora.caches import cache_folder
from isolora.errors import ConfigError, in_brief
from isolora.json_types import JsonObject
from isolora.models import architectures
from isolora.paths import is_folder

TEMPLATES = ("chat_template.jinja", "additional_chat_templates/*.jinja")
VOCABULARIES = ("*.txt", "*.model", "*.tiktoken")
"""What a tokenizer is built from, beside JSON files."""
FETCHED = ("minilm-l6", "smollm2-135m")  # what `isolora fetch-models` fetches


@cache
def packaged_models() -> dict[str, Path]:
    """Models that come with isolora: name -> folder."""
    root = Path(str(resources.files("isolora") / "assets" / "nano"))
    return {path.parent.name: path.parent for path in sorted(root.glob("*/config.json"))}


def fetched_root() -> Path:
    """Where `isolora fetch-models` puts models: the folder that ISOLORA_MODELS names, else `models` in the clone's root, or in
    the cache of an installed isolora."""
    clone = Path(__file__).parents[3]
    own = clone if (clone / "pyproject.toml").is_file() else cache_folder()
    return Path(os.environ.get("ISOLORA_MODELS") or own / "models")


def fetched() -> dict[str, Path]:
    """Models that `isolora fetch-models` has fetched: name -> folder."""
    return {name: fetched_root() / name for name in FETCHED if (fetched_root() / name / "config.json").is_file()}


def locate(name: str) -> str:
    """What `from_pretrained` is given: the packaged or fetched folder, a local folder, or the hub id itself."""
    known = packaged_models() | fetched()
    if name in known:
        return str(known[name])
    if is_folder(name):
        if not (Path(name) / "config.json").is_file():
            raise ConfigError(f"model: folder {name} has no config.json")
        if odd := next((path.name for path in sorted(Path(name).iterdir()) if _waits(path)), None):
            raise ConfigError(f"model: {odd} in {name} is a pipe, a socket or a device, no file")
        return name
    if "://" in name:  # not said again: there may be a password in it
        raise ConfigError(
            "model: an address is no name of a model (valid: a packaged name, a local folder, or a hub id, owner/name)"
        )
    if name in FETCHED:
        raise ConfigError(f"model: {name} is not in {fetched_root()}; fetch it with: isolora fetch-models")
    return name


def _waits(path: Path) -> bool:
    """Whether reading could wait for ever: neither a file nor a folder, nor a link to nothing, which fails at once."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def fingerprint(name: str) -> str:
    """Identity of the weights behind a name, of their tokenizer and of its chat template: file hashes for a folder, the id itself
    for a hub model."""
    place = Path(locate(name))
    if not is_folder(str(place)):
        return name
    whole = (place / "tokenizer.json").is_file()  # then it holds all that the vocabularies say
    kinds = ("*.json", "*.safetensors", *TEMPLATES, *(() if whole else VOCABULARIES))
    files = sorted(path for kind in kinds for path in place.glob(kind))
    return _digest(tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files))


@cache
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Hash over names and contents of (path, time of change, size); read again only when one of them has changed."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def not_found(name: str, failure: Exception) -> str:
    if unknown_type := _unknown_type(name):
        return unknown_type
    if name in architectures.by_name():
        hint = "; its shape alone is packaged"
    else:
        hint = "; did you mean " + " or ".join(map(repr, near)) + "?" if (near := _near(name)) else ""
    reason = in_brief(failure)
    return (
        f"model: cannot load {name!r}{hint} (packaged: {', '.join(packaged_models())}; or a local folder, or a hub id: {reason})"
    )


def _near(name: str) -> list[str]:
    """Names of packaged models and known architectures like a mistyped one, compared without their publishers."""
    names = {known.split("/")[-1].lower(): known for known in [*architectures.by_name(), *packaged_models()]}
    return [names[tail] for tail in difflib.get_close_matches(name.split("/")[-1].lower(), names, n=3)]


def _unknown_type(name: str) -> str:
    """One line where a local configuration names an architecture that transformers does not have, else nothing."""
    from transformers import CONFIG_MAPPING

    try:
        described = json.loads((Path(locate(name)) / "config.json").read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError):
        return ""
    if not isinstance(described, dict):
        return ""
    kind = described.get("model_type")
    if not isinstance(kind, str) or kind in CONFIG_MAPPING or "auto_map" in described:
        return ""
    near = difflib.get_close_matches(kind, CONFIG_MAPPING, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"model: unknown architecture {kind!r} in {name}/config.json{hint} (transformers knows {len(CONFIG_MAPPING)} others)"


def packaged_configuration(name: str) -> JsonObject:
    """A packaged model's configuration."""
    described: JsonObject = json.loads((packaged_models()[name] / "config.json").read_text(encoding="utf-8"))
    return described
