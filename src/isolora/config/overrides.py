"""Dotted keys: `training.tokens=1e6` on the command line, `method.rank` in a grid."""

from __future__ import annotations

from collections.abc import Mapping

from isolora.config import strict_yaml
from isolora.config.plug_ins import PLUG_INS
from isolora.config.training import BUDGETS
from isolora.errors import ConfigError
from isolora.json_types import JsonMapping, JsonObject


def with_word(given: JsonObject, word: str) -> JsonObject:
    """A copy of `given` in which one `dotted.key=value` word is set; the value is read as YAML."""
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise ConfigError(f"expected key=value, got {word!r} (for example training.tokens=1e6)")
    return with_value(given, key, strict_yaml.parse_yaml(text, where=key))


def with_value(given: JsonMapping, dotted: str, value: object) -> JsonObject:
    """A copy of a nested mapping with one dotted key set; a budget that was set before in the same group is removed."""
    head, _, rest = dotted.partition(".")
    copy = dict(given)
    if not rest:
        if head in BUDGETS:
            copy = {key: kept for key, kept in copy.items() if key not in BUDGETS}
        copy[head] = value
        return copy
    inner = copy.get(head, {})
    if head in PLUG_INS and isinstance(inner, str):
        inner = {"name": inner}
    if not isinstance(inner, Mapping):
        raise ConfigError(f"{dotted}: {head} is not a group of keys")
    copy[head] = with_value(inner, rest, value)
    return copy
