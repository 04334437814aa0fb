"""Rows of documents that a task cannot use, said in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from isolora.errors import DataError
from isolora.tasks.base import Task

Made = TypeVar("Made")


def problem_of(task: Task, row: Mapping[str, Any]) -> str:
    """Why the task cannot use a row, its templates included; empty where it can."""
    try:
        return task.problem(row)
    except DataError as failure:
        return str(failure)


def checked(task: Task, documents: Any) -> Iterator[Mapping[str, Any]]:
    """Every document's columns. Raises DataError, naming file and row, for the first that the task cannot use."""
    return made(task, documents, lambda row: row)


def made(task: Task, documents: Any, make: Callable[[Mapping[str, Any]], Made]) -> Iterator[Made]:
    """What `make` makes of every document's columns. Raises DataError, naming file and row, for the first that is of no use."""
    for place, row in enumerate(documents.rows()):
        if problem := problem_of(task, row):
            raise DataError(f"data: {documents.origin(place)}: {problem}")
        try:
            yield make(row)
        except DataError as failure:
            raise DataError(f"data: {documents.origin(place)}: {failure}") from None


def empty(row: Mapping[str, Any], *names: str) -> str:
    """Which column holds no text, if one does."""
    for name in names:
        value = row.get(name)
        if not isinstance(value, str):
            return f"{name} holds {'nothing' if value is None else type(value).__name__}, not text"
        if not value.strip():
            return f"{name} is empty"
    return ""
