"""Classes of labelled documents: their names, and the number of each label."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa


class Classes:
    """Numbers of labels. A whole number is a class's number itself, unless classes are called by numbers."""

    def __init__(self, names: Sequence[str]) -> None:
        self._numbers = {name: number for number, name in enumerate(names)}
        self._named = not any(name.removeprefix("-").isdecimal() for name in names)

    def number(self, label: Any) -> int | None:
        """The number of a label's class; None where there is no such class."""
        if str(label) in self._numbers:
            return self._numbers[str(label)]
        return label if self._named and type(label) is int and 0 <= label < len(self._numbers) else None


def class_names(table: pa.Table, column: str) -> list[str]:
    """Names of an integer column's classes where the file carries them, as `datasets` writes them; else none."""
    described = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    for name, feature in described.get("info", {}).get("features", {}).items():
        inner = feature.get("feature", feature)
        if "names" in inner and name in table.column_names and table[name].equals(table[column]):
            return list(inner["names"])
    return []


def class_options(labels: Sequence[str]) -> dict[str, Any]:
    """What a model's configuration is told about its classes."""
    return {"id2label": dict(enumerate(labels)), "label2id": {label: number for number, label in enumerate(labels)}}
