"""Rows of documents that a task cannot use, said in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from isolora.errors import DataError
from isolora.tasks._base import Task


def checked(task: Task, documents: Any) -> Iterator[Mapping[str, Any]]:
    """Every document's columns. Raises DataError, naming the row, for the first that the task cannot use."""
    names = list(documents.fields)
    for number, values in enumerate(zip(*documents.fields.values(), strict=True), 1):
        row = dict(zip(names, values, strict=True))
        if problem := task.problem(row):
            raise DataError(f"data: row {number} of those drawn: {problem}")
        yield row


def empty(row: Mapping[str, Any], *names: str) -> str:
    """Which column holds no text, if one does."""
    for name in names:
        value = row.get(name)
        if not isinstance(value, str):
            return f"{name} holds {'nothing' if value is None else type(value).__name__}, not text"
        if not value.strip():
            return f"{name} is empty"
    return ""
