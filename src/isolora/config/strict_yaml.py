"""YAML read safely and strictly: plain values alone, each key once, a mistake in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from isolora.errors import ConfigError


class UniqueKeys(yaml.SafeLoader):
    """Safe YAML in which a key may be given once; otherwise the last one would win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        given: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in given:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            given.add(str(key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file, safely. Raises ConfigError with the file and line of a mistake."""
    if not path.is_file():
        raise ConfigError(f"no such file: {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as failure:
        raise ConfigError(f"{path}: not UTF-8 at byte {failure.start}") from None
    given = load(text, where=str(path))
    if not isinstance(given, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(given).__name__}")
    return given


def load(text: str, where: str) -> Any:
    """The value that a text means. Raises ConfigError with `where` and the line of a mistake."""
    try:
        return yaml.load(text, Loader=UniqueKeys)
    except yaml.YAMLError as failure:
        mark = getattr(failure, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = str(getattr(failure, "problem", None) or "not valid YAML").replace("\n", " ")
        raise ConfigError(f"{where}: {line}{problem}") from None
