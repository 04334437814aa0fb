"""Rows of documents that a task cannot use: each is named with its file and row, and why."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from isolora.errors import DataError
from isolora.json_types import JsonMapping
from isolora.tasks.base import Task, problem_of

if TYPE_CHECKING:
    from isolora.data import Documents

Made = TypeVar("Made")


UNSEEN = ("Cc", "Cf", "Zl", "Zp", "Zs")
"""Unicode's categories of control and format characters and of separators."""


def usable_rows(task: Task, documents: Documents) -> Iterator[JsonMapping]:
    """Every document's columns. Raises DataError, naming file and row, for the first that the task cannot use."""
    return make_each(task, documents, lambda row: row)


def make_each(task: Task, documents: Documents, make: Callable[[JsonMapping], Made]) -> Iterator[Made]:
    """`make` of every document's columns. Raises DataError, naming file and row, for the first document that cannot be used."""
    for place, row in enumerate(documents.rows()):
        if problem := problem_of(task, row):
            raise DataError(f"data: {documents.origin(place)}: {problem}")
        try:
            yield make(row)
        except DataError as failure:
            raise DataError(f"data: {documents.origin(place)}: {failure}") from None


def text_problem(row: JsonMapping, *names: str, optional: Sequence[str] = ()) -> str:
    """Which of these columns holds no text, in a few words; empty where all do. optional: columns that may be absent or empty."""
    for name in (*names, *(name for name in optional if row.get(name))):
        value = row.get(name)
        if not isinstance(value, str):
            return f"{name} holds {'nothing' if value is None else type(value).__name__}, not text"
        if is_blank(value):
            return f"{name} is empty"
    return ""


def is_blank(text: str) -> bool:
    """Whether nothing of a text is seen: white space, and characters without a width, as spreadsheets and pages leave them."""
    return not any(unicodedata.category(each) not in UNSEEN for each in text)
