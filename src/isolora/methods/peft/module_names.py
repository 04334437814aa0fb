"""Names and patterns of modules in PEFT's configurations, checked before PEFT matches them: it passes over names that match
nothing, and has no time limit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from isolora.errors import ConfigError
from isolora.methods.targets import check_names, matching, nothing_matches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FIELDS = ("target_modules", "exclude_modules", "feedforward_modules")
"""A text is a pattern over full names, a list holds endings of names."""
PASTED = re.compile(r"\^?[\w.\\$-]+")
"""What PEFT puts into a pattern of its own: nothing in it may be repeated."""


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
