"""Base models loaded by transformers' ordinary `from_pretrained`, or without weights on the `meta` device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from logging import ERROR, LogRecord
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isolora import registry
from isolora.config import RunConfig, TrainingConfig
from isolora.errors import ConfigError
from isolora.garbage import collect_as_usual
from isolora.json_types import JsonObject
from isolora.lean_imports import import_modeling
from isolora.methods import missing_weights
from isolora.methods.adapter_files import refuse_pickles
from isolora.methods.trained_heads import drawing_from, head_names
from isolora.models import architectures
from isolora.models.configuration import check_plausible, foreign, load_architecture, positions, published_architecture
from isolora.models.fused import fuse
from isolora.models.last_layer import narrow_last_layer
from isolora.models.names import locate
from isolora.paths import is_folder
from isolora.tasks.base import Task, padding_id

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

MOST_MISSING = 0.25
"""Share of a model's weights: a checkpoint that lacks more is another architecture's; a pooler is a few per cent."""


@dataclass(frozen=True)
class Base:
    """A loaded base model with its tokenizer. Weight counts: `body_parameters` leaves embeddings and the output head out."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    body_parameters: int
    model_parameters: int
    max_length: int

    @property
    def pad_id(self) -> int:
        """The entry that fills a batch's shorter rows; its attention mask is 0 there."""
        return padding_id(self.tokenizer, self.model)


def bound_task(config: RunConfig, labels: Sequence[str] = ()) -> Task:
    """The run's task with its settings and its model's architecture, and the classes where they are known."""
    plain: Task = registry.load_plug_in("task", config.task.name)
    return plain.bound(plain.Settings(**config.task.fields()), labels, load_architecture(config))


def weights_of(config: RunConfig) -> RunConfig:
    """A configuration equal for all runs that share a base in memory: the same weights, head and quantisation."""
    own = {name: getattr(config, name) for name in ("model", "task", "trust_remote_code", "new_tokens")}
    training = {name: getattr(config.training, name) for name in ("precision", "base_precision")}
    if config.training.base_precision != "float32":
        own["training"] = TrainingConfig(tokens=1e6, **training)
    return RunConfig(**own, **({"method": config.method} if _method_options(config) else {}))


def _method_options(config: RunConfig) -> JsonObject:
    method = registry.load_plug_in("method", config.method.name)
    options: JsonObject = method.model_options(method.settings(config.method.fields()))
    return options


def load_base(config: RunConfig, task: Task) -> Base:
    """Load weights and tokenizer, in float32 unless the run wants the base in bfloat16. Raises ConfigError, one line, when the
    name leads nowhere.

    What the task puts on top of the body is new, whatever the checkpoint holds there.
    """
    import torch
    import transformers

    tokenizer = load_tokenizer(config)
    architecture = published_architecture(config, task)
    import_modeling()
    if is_folder(locate(config.model)):
        folder = Path(locate(config.model))
        _check_folder(config.model, folder, architecture, task)
    kind = getattr(transformers, task.auto_class(architecture))
    collect_as_usual()
    options = {"dtype": "float32", **_method_options(config), "trust_remote_code": config.trust_remote_code}
    # what the checkpoint lacks, such as a pooler under a new head, is the same at every loading
    with foreign(config.model), _quiet(), drawing_from(0, torch.device("cpu")):
        model, about = kind.from_pretrained(
            locate(config.model),
            config=architecture,
            ignore_mismatched_sizes=task.new_head,
            output_loading_info=True,
            **options,
        )
    _note_missing(config.model, model, about, task.new_head)
    cast_base(model, config, task)
    registry.load_plug_in("method", config.method.name).after_loading(model.eval())
    fuse(model)
    narrow_last_layer(model)
    model.name_or_path = config.model  # what an adapter's file names as its base: the name a person gave, not a path
    return count_weights(config.model, model, tokenizer)


def cast_base(model: PreTrainedModel, config: RunConfig, task: Task) -> None:
    """Give the base's weights the precision that the run keeps them in. The task's new head is trained and stays float32; so
    does what the model computes for itself, such as rotary frequencies."""
    import torch

    if config.training.base_precision == "float32":
        return
    heads = tuple(f"{head}." for head in head_names(model)) if task.new_head else ()
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not name.startswith(heads):
            weight.data = weight.data.to(getattr(torch, config.training.base_precision))


def _check_folder(name: str, folder: Path, architecture: PretrainedConfig, task: Task) -> None:
    """Raises a UserError where a local folder has pickles alone, or a configuration that its weights are not of."""
    refuse_pickles(folder / "model.safetensors")
    with foreign(name):
        check_plausible(name, folder, architecture, task.auto_class(architecture))


def _note_missing(name: str, model: PreTrainedModel, about: Any, new_head: bool) -> None:
    """Remember what the checkpoint lacks beside the task's new head. Raises ConfigError where that is a large part, or a head
    that the task does not make new."""
    heads = tuple(f"{head}." for head in head_names(model)) if new_head else ()
    if odd := sorted(key for key, *_ in about["mismatched_keys"] if not key.startswith(heads)):
        raise ConfigError(f"model: {name}: {odd[0]} has another shape in the weights than config.json gives it")
    own = dict(model.named_parameters())
    lacking = sorted(key for key in about["missing_keys"] if key in own and not key.startswith(heads))
    output = model.get_output_embeddings()
    language = output is not None and any(own[key] is weight for key in lacking for weight in output.parameters(recurse=False))
    share = sum(own[key].numel() for key in lacking) / sum(weight.numel() for weight in own.values())
    if language or share > MOST_MISSING:
        raise ConfigError(f"model: {name} has no {lacking[0]}: its weights are not those of a {type(model).__name__}")
    missing_weights.remember_missing(model, lacking)


def own_precision(config: RunConfig) -> Any:
    """The torch type in which the base is published: its configuration's, else that of its first weights; else float32."""
    import torch

    architecture = published_architecture(config, None)
    declared = getattr(architecture, "dtype", None) or getattr(architecture.get_text_config(), "dtype", None)
    found = declared or _first_type(Path(locate(config.model)))
    return getattr(torch, found, torch.float32) if isinstance(found, str) else found


def _first_type(folder: Path) -> str:
    """The type of a local checkpoint's first floating weight."""
    from safetensors import safe_open

    names = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
    for path in sorted(folder.glob("*.safetensors")) if is_folder(str(folder)) else ():
        with safe_open(str(path), "pt") as tensors:
            kinds = [tensors.get_slice(name).get_dtype() for name in list(tensors.keys())]
            return next((names[kind] for kind in kinds if kind in names), "float32")
    return "float32"


def load_tokenizer(config: RunConfig) -> Any:
    """The tokenizer alone, with the run's new tokens."""
    import transformers

    with foreign(config.model):
        tokenizer = transformers.AutoTokenizer.from_pretrained(locate(config.model), trust_remote_code=config.trust_remote_code)
        if not isinstance(tokenizer.model_max_length, int | float):
            raise TypeError(f"model_max_length is {tokenizer.model_max_length!r}")
    known = sorted(set(config.new_tokens) & tokenizer.get_vocab().keys())
    if known or len(set(config.new_tokens)) < len(config.new_tokens):
        raise ConfigError(f"new_tokens: {known[0]!r} is a token already" if known else "new_tokens: a token is given twice")
    tokenizer.add_tokens(list(config.new_tokens))
    return tokenizer


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' table of weights that are new: a new head is meant to be. Not by a logger's level, at whose changes
    Python goes through all loggers there are, 0.5 ms each time."""
    from transformers.utils import logging

    handlers = tuple(logging.get_logger().handlers)
    for handler in handlers:
        handler.addFilter(_is_error)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(_is_error)


def _is_error(record: LogRecord) -> bool:
    return record.levelno >= ERROR


def skeleton(config: RunConfig, task: Task) -> Base:
    """The same model without weights, on the `meta` device: enough for the ledger."""
    import_modeling()
    architecture = load_architecture(config, task)
    model = architectures.on_meta(architecture, task.auto_class(architecture), config.trust_remote_code)
    fuse(model)
    narrow_last_layer(model)
    return count_weights(config.model, model, None)


def count_weights(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Base:
    """Count the weights, each shared one once."""
    embeddings = {
        id(layer.weight) for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None
    }
    sizes = {id(parameter): parameter.numel() for parameter in model.parameters()}
    body = sum(size for key, size in sizes.items() if key not in embeddings)
    return Base(name, model, tokenizer, body, sum(sizes.values()), positions(model.config))
