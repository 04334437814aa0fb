"""What a person writes: YAML, read safely and strictly, and dotted keys (`training.tokens=1e6` on the command line, `method.rank`
in a grid). Plain values alone, each key once, a mistake in one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from isolora.config.plug_ins import PLUG_INS
from isolora.config.training import BUDGETS
from isolora.errors import ConfigError, in_brief
from isolora.json_types import JsonMapping, JsonObject


class UniqueKeys(yaml.SafeLoader):
    """Safe YAML in which a key may be given once; otherwise the last one would win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        given: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in given:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            given.add(str(key.value))
        return super().construct_mapping(node, deep)


MAX_VALUES = 100_000
"""Values that a file may have, each as often as an alias repeats it: small files can mean billions."""
MAX_BYTES = 2**20
"""Of a file, looked at before it is read: PyYAML takes seconds and some hundred times a file's size to parse it."""
FAILURES = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What PyYAML raises, beside its own errors, for values that do not suit their tag: a month 13, `!!int x`, `!!map [a]`."""


def read_yaml(path: Path) -> JsonObject:
    """A mapping from a YAML file, safely. Raises ConfigError with the file and line of a mistake."""
    try:
        if not path.is_file():
            raise ConfigError(f"{path} is a folder; a YAML file is wanted" if path.is_dir() else f"no such file: {path}")
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: {path.stat().st_size:,} bytes, more than the {MAX_BYTES:,} that a configuration may have")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as failure:
        raise ConfigError(f"{path}: not UTF-8 at byte {failure.start}") from None
    except OSError as failure:
        raise ConfigError(f"{path}: cannot be read ({failure.strerror})") from None
    given = parse_yaml(text, where=str(path))
    if not isinstance(given, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(given).__name__}")
    return given


def parse_yaml(text: str, where: str) -> Any:
    """The value that a text means. Raises ConfigError with `where` and the line of a mistake."""
    try:
        value = yaml.load(text, Loader=UniqueKeys)
        _count(value, [MAX_VALUES])
    except yaml.YAMLError as failure:
        mark = getattr(failure, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = str(getattr(failure, "problem", None) or "not valid YAML").replace("\n", " ")
        raise ConfigError(f"{where}: {line}{problem}") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deep, or a part of itself") from None
    except FAILURES as failure:
        raise ConfigError(f"{where}: {in_brief(failure)}") from None
    return value


def _count(value: object, left: list[int]) -> None:
    """Raises ValueError where a value has more parts than are left."""
    left[0] -= 1
    if left[0] < 0:
        raise ValueError(f"more than {MAX_VALUES} values")
    if isinstance(value, dict | list | set | tuple):
        for part in [*value, *value.values()] if isinstance(value, dict) else value:
            _count(part, left)


def with_word(given: JsonObject, word: str) -> JsonObject:
    """A copy of `given` in which one `dotted.key=value` word is set; the value is read as YAML."""
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise ConfigError(f"expected key=value, got {word!r} (for example training.tokens=1e6)")
    return with_value(given, key, parse_yaml(text, where=key))


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
