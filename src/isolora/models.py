"""Base models: packaged names, local folders and hub ids, loaded by transformers' ordinary `from_pretrained`."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from isolora import architectures, registry
from isolora.config import RunConfig
from isolora.errors import ConfigError
from isolora.tasks._base import Task

FETCHED = ("minilm-l6", "smollm2-135m")  # what `make models` fetches


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


def fetched_root() -> Path:
    """Where `make models` puts models: the folder that ISOLORA_MODELS names, else `models` in the project's root."""
    return Path(os.environ.get("ISOLORA_MODELS") or Path(__file__).parents[2] / "models")


def fetched() -> dict[str, Path]:
    """Models that `make models` has fetched: name -> folder."""
    return {name: fetched_root() / name for name in FETCHED if (fetched_root() / name / "config.json").is_file()}


def locate(name: str) -> str:
    """What `from_pretrained` is given: the packaged or fetched folder, a local folder, or the hub id itself."""
    known = packaged() | fetched()
    if name in known:
        return str(known[name])
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise ConfigError(f"model: folder {name} has no config.json")
        return name
    if name in FETCHED:
        raise ConfigError(f"model: {name} is not in {fetched_root()}; fetch it with: make models")
    return name


def bound_task(config: RunConfig, labels: Sequence[str] = ()) -> Task:
    """The run's task with its settings and its model's architecture, and the classes where they are known."""
    plain: Task = registry.load("task", config.task.name)
    return plain.bound(plain.Settings(**config.task.fields()), labels, load_architecture(config))


def weights_of(config: RunConfig) -> RunConfig:
    """A configuration equal for all runs that share a base in memory: the same weights, head and quantisation."""
    own = {name: getattr(config, name) for name in ("model", "task", "trust_remote_code", "new_tokens")}
    return RunConfig(**own, **({"method": config.method} if _method_options(config) else {}))


def _method_options(config: RunConfig) -> dict[str, Any]:
    method = registry.load("method", config.method.name)
    options: dict[str, Any] = method.model_options(method.settings(config.method.fields()))
    return options


def load(config: RunConfig, task: Task) -> Base:
    """Load weights and tokenizer in float32. Raises ConfigError with one line when the name leads nowhere.

    What the task puts on top of the body is new, whatever the checkpoint holds there.
    """
    import torch
    import transformers

    tokenizer = load_tokenizer(config)
    architecture = _published_architecture(config, task)
    kind = getattr(transformers, task.auto_class(architecture))
    options = {"dtype": "float32", **_method_options(config), "trust_remote_code": config.trust_remote_code}
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # what the checkpoint lacks, such as a pooler under a new head, is the same at every loading
            model = kind.from_pretrained(
                locate(config.model), config=architecture, ignore_mismatched_sizes=task.new_head, **options
            )
    except (OSError, ValueError) as failure:
        raise ConfigError(_not_found(config.model, failure)) from None
    registry.load("method", config.method.name).after_loading(model.eval())
    model.name_or_path = config.model  # what an adapter's file names as its base: the name a person gave, not a path
    return measured(config.model, model, tokenizer)


def load_tokenizer(config: RunConfig) -> Any:
    """The tokenizer alone, with the run's new tokens."""
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(locate(config.model), trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError) as failure:
        raise ConfigError(_not_found(config.model, failure)) from None
    known = sorted(set(config.new_tokens) & tokenizer.get_vocab().keys())
    if known or len(set(config.new_tokens)) < len(config.new_tokens):
        raise ConfigError(f"new_tokens: {known[0]!r} is a token already" if known else "new_tokens: a token is given twice")
    tokenizer.add_tokens(list(config.new_tokens))
    return tokenizer


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' table of weights that are new: a new head is meant to be."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def load_architecture(config: RunConfig, task: Task | None = None) -> Any:
    """The transformers configuration alone, with what the task adds to it; packaged facts before a look at the hub."""
    import transformers

    facts = architectures.by_name().get(config.model)
    if facts is None or Path(locate(config.model)).is_dir():
        return _published_architecture(config, task)
    options = {} if task is None else task.model_options()
    return transformers.CONFIG_MAPPING[facts.config["model_type"]].from_dict(deepcopy(facts.config), **options)


def _published_architecture(config: RunConfig, task: Task | None) -> Any:
    """The configuration that lies beside the weights."""
    import transformers

    options = {} if task is None else task.model_options()
    try:
        return transformers.AutoConfig.from_pretrained(
            locate(config.model), trust_remote_code=config.trust_remote_code, **options
        )
    except (OSError, ValueError) as failure:
        raise ConfigError(_not_found(config.model, failure)) from None


def skeleton(config: RunConfig, task: Task) -> Base:
    """The same model without weights, on the `meta` device: enough for the ledger."""
    architecture = load_architecture(config, task)
    model = architectures.on_meta(architecture, task.auto_class(architecture), config.trust_remote_code)
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
    """The longest sequence that a model takes, in tokens; 1,024 where its configuration sets no bound.

    Relative positions set none: there it is the length of pretraining, which T5 and BLOOM write down.
    """
    text = architecture.get_text_config()
    bounds = (getattr(text, name, None) for name in ("max_position_embeddings", "n_positions", "seq_length"))
    return next((int(bound) for bound in bounds if bound), 1024) - _positions_of_padding(text)


def _positions_of_padding(architecture: Any) -> int:
    """Rows of the table of positions that no token uses: RoBERTa and its kin count from behind the padding's own."""
    import transformers

    if getattr(architecture, "pad_token_id", None) is None or type(architecture) not in transformers.MODEL_MAPPING:
        return 0
    modules = architectures.on_meta(architecture, "AutoModel").named_modules()
    rows = [table.padding_idx for name, table in modules if name.endswith("position_embeddings")]
    return max((row + 1 for row in rows if row is not None), default=0)


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
    if unknown_type := _unknown_type(name):
        return unknown_type
    if name in architectures.by_name():
        hint = "; its shape alone is packaged"
    else:
        hint = "; did you mean " + " or ".join(map(repr, near)) + "?" if (near := _near(name)) else ""
    reason = str(failure).strip().split("\n")[0][:160]
    return f"model: cannot load {name!r}{hint} (packaged: {', '.join(packaged())}; or a local folder, or a hub id: {reason})"


def _near(name: str) -> list[str]:
    """Names of packaged models and known architectures like a mistyped one, compared without their publishers."""
    names = {known.split("/")[-1].lower(): known for known in [*architectures.by_name(), *packaged()]}
    return [names[tail] for tail in difflib.get_close_matches(name.split("/")[-1].lower(), names, n=3)]


def _unknown_type(name: str) -> str:
    """One line where a local configuration names an architecture that transformers does not have, else nothing."""
    from transformers import CONFIG_MAPPING

    try:
        described = json.loads((Path(locate(name)) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    kind = described.get("model_type")
    if kind is None or kind in CONFIG_MAPPING or "auto_map" in described:
        return ""
    near = difflib.get_close_matches(kind, CONFIG_MAPPING, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"model: unknown architecture {kind!r} in {name}/config.json{hint} (transformers knows {len(CONFIG_MAPPING)} others)"


def describe(name: str) -> dict[str, Any]:
    """A packaged model's configuration."""
    described: dict[str, Any] = json.loads((packaged()[name] / "config.json").read_text(encoding="utf-8"))
    return described
