"""PEFT's configuration classes as data: the fields that a person may set, and a saved adapter's configuration read back.

Names and patterns of modules are checked before PEFT matches them: it passes over names that match nothing, and has no time
limit.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from isolora.errors import ConfigError, DataError, in_brief
from isolora.json_types import JsonMapping
from isolora.lean_imports import import_peft
from isolora.methods.adapter_files import CONFIG, saved_settings
from isolora.methods.targets import check_names, is_named, matching, nothing_matches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BOOKKEEPING = {
    *("task_type", "peft_type", "auto_mapping", "peft_version", "revision", "base_model_name_or_path", "inference_mode"),
    *("modules_to_save", "token_dim", "num_attention_heads", "num_layers"),
}
"""Fields that the model decides, or that change nothing."""
WITHHELD = {"bias", "layer_replication", "alora_invocation_tokens", "use_asa"}
"""Fields that train or rearrange the base itself, or need a forward pass or a schedule of PEFT's own."""
ANY_SIZE = 1024
NO_SIZE = re.compile(r"seed|key|step|tinit|tfinal|deltaT|encoder")
"""Numbers that nothing is as long as: seeds, schedules, networks that are left behind after training."""
PLAIN = (bool, int, float, str, list, dict, tuple, NoneType)


FIELDS = ("target_modules", "exclude_modules", "feedforward_modules")
"""A text is a pattern over full names, a list holds endings of names."""
PASTED = re.compile(r"\^?[\w.\\$-]+")
"""What PEFT puts into a pattern of its own: nothing in it may be repeated."""


@contextmanager
def quietly() -> Iterator[None]:
    """Without PEFT's advice to its own users."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def without_bitsandbytes(peft_type: str) -> Iterator[None]:
    """Some of PEFT's methods import bitsandbytes in case that a layer is one of its own, and with it torch's compiler: 2.4
    processor seconds. Where nobody has imported it before, no layer can be."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.utils import PeftType

    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(PeftType(peft_type))
    asking: dict[str, Any] = vars(sys.modules[tuner.__module__]) if tuner and "bitsandbytes" not in sys.modules else {}
    before: dict[str, Any] = {name: asking[name] for name in ("is_bnb_available", "is_bnb_4bit_available") if name in asking}
    asking.update({name: lambda: False for name in before})
    try:
        yield
    finally:
        asking.update(before)


def config_class(peft_type: str) -> Any:
    import_peft()
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType

    return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(peft_type)]


def plain_fields(peft_type: str) -> dict[str, tuple[Any, Field[Any]]]:
    """Name -> (type, field) of what can be written in YAML and concerns the adapter alone."""
    kind = config_class(peft_type)
    hints = get_type_hints(kind)
    found = {field.name: (hints[field.name], field) for field in fields(kind) if field.init}
    return {
        name: (hint, field)
        for name, (hint, field) in found.items()
        if name not in BOOKKEEPING | WITHHELD and not name.startswith("megatron") and _is_plain(hint)
    }


def default(field: Field[Any]) -> Any:
    """A field's default as YAML would have it."""
    value = field.default if field.default_factory is MISSING else field.default_factory()
    return value.value if isinstance(value, Enum) else value


def _is_plain(hint: object) -> bool:
    if get_origin(hint) in (Union, UnionType, list, dict, tuple):
        return all(_is_plain(part) for part in get_args(hint))
    is_enum = isinstance(hint, type) and issubclass(hint, Enum)
    return hint in PLAIN or get_origin(hint) is Literal or is_enum


def saved_config(folder: Path, peft_type: str) -> Any:
    """The configuration in an adapter's folder. Raises DataError where it is unreadable, another method's, or asks for more than
    the plain fields can say."""
    saved = saved_settings(folder)
    if saved.get("peft_type") != peft_type:
        raise DataError(f"{folder}: peft_type is {saved.get('peft_type')!r}, expected {peft_type!r}")
    try:
        with quietly():
            config = config_class(peft_type)(**{name: saved[name] for name in plain_fields(peft_type) if name in saved})
    except (TypeError, ValueError) as failure:
        raise DataError(f"{folder}: {CONFIG}: {in_brief(failure)}") from None
    beyond = [name for name, value in _plain(config.to_dict()).items() if name in saved and _plain(saved[name]) != value]
    if foreign := sorted(set(beyond) - BOOKKEEPING):
        raise DataError(f"{folder}: {', '.join(foreign)} is beyond what is understood here; load it with PEFT")
    return config


def check_sizes(saved: JsonMapping, tensors: JsonMapping) -> None:
    """Raises ConfigError for a number that no saved tensor is as long as: memory would be taken for it, here or by PEFT, which
    believes what the model decides as well (`token_dim`). saved: what the adapter's file says."""
    longest = max((length for tensor in tensors.values() for length in tensor.shape), default=0)
    for name, value in _counts(saved):
        if value > max(longest, ANY_SIZE) and not NO_SIZE.search(name):
            raise ConfigError(f"method.{name}: {value:,} is larger than any saved tensor is long ({longest:,})")


def _counts(saved: JsonMapping) -> Iterator[tuple[str, int]]:
    """(name, whole number) of the settings, those by name of module included."""
    for name, value in saved.items():
        if isinstance(value, int):
            yield name, value
        elif isinstance(value, dict):
            yield from ((f"{name}.{inner}", number) for inner, number in _counts(value))


def _plain(value: object) -> Any:
    """As JSON reads it back, sets and lists alike in any order."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return sorted((_plain(inner) for inner in value), key=repr)
    return value.value if isinstance(value, Enum) else value


def check_module_names(model: PreTrainedModel, config: object) -> None:
    """Raises ConfigError, naming the field, for a name that matches nothing and a pattern that takes too long."""
    names = [name for name, _ in model.named_modules() if name]
    for field in FIELDS:
        given = getattr(config, field, None)
        if isinstance(given, str) and given != "all-linear":
            if not matching(given, names, f"method.{field}"):
                raise ConfigError(nothing_matches(given, names, f"method.{field}"))
        elif given and not isinstance(given, str):
            if not isinstance(given, list | tuple | set) or not all(isinstance(name, str) for name in given):
                raise ConfigError(f"method.{field}: expected names of modules or a pattern (got {str(given)[:100]!r})")
            check_names(sorted(given), names, f"method.{field}")
    if parameters := getattr(config, "target_parameters", None):
        check_names(parameters, [name for name, _ in model.named_parameters()], "method.target_parameters")
    for field, key in _pasted(config):
        if not isinstance(key, str) or not PASTED.fullmatch(key):
            raise ConfigError(f"method.{field}: {str(key)[:100]!r} is no plain name of a module")
        if field != "layers_pattern" and not any(re.match(rf"(.*\.)?({key})$", name) for name in names):
            raise ConfigError(nothing_matches(key, names, f"method.{field}"))


def drop_absent_names(model: PreTrainedModel, config: object) -> None:
    """Keep of a saved configuration the names that this model has; targets of which it has none are left to be refused. PEFT's
    defaults also name layers of older versions of an architecture, such as `w2` of Mixtral, and are saved whole. What was trained
    is held to by its tensors."""
    names = [name for name, _ in model.named_modules() if name]
    for field in FIELDS:
        given = getattr(config, field, None)
        if isinstance(given, list | tuple | set) and all(isinstance(name, str) for name in given):
            present = {target for target in given if any(is_named(name, [target]) for name in names)}
            if present or field != "target_modules":
                setattr(config, field, present)


def _pasted(config: object) -> Iterator[tuple[str, Any]]:
    """(field, name) of those that PEFT pastes into patterns. AdaLoRA's `rank_pattern` of truth values is looked up instead."""
    layers = getattr(config, "layers_pattern", None)
    for key in [layers] if isinstance(layers, str) else layers or []:
        yield "layers_pattern", key
    for field in ("rank_pattern", "alpha_pattern"):
        given = getattr(config, field, None) or {}
        for key, value in given.items():
            if not isinstance(value, list):
                yield field, key
