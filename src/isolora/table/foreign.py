"""Files of points that others wrote: a regular file, its text, its JSON; whatever is wrong with it, in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from isolora.errors import TableError, in_brief


def readable(path: Path) -> Path:
    """The same path. Raises TableError for what is no regular file: reading a pipe or a device may never end."""
    try:
        if not path.is_file():
            raise TableError(f"{str(path)!r} cannot be read: it is no regular file")
    except (OSError, ValueError) as error:
        raise TableError(f"{str(path)!r} cannot be read: {in_brief(error)}") from error
    return path


def foreign_text(path: Path) -> str:
    """A file's text; a mark of the byte order at its beginning is left out. Raises TableError."""
    try:
        return readable(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TableError(f"{str(path)!r} cannot be read: not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise TableError(f"{str(path)!r} cannot be read: {in_brief(error)}") from error


def foreign_json(path: Path) -> Any:
    """The value in a JSON file. Raises TableError."""
    return parsed_json(foreign_text(path), repr(str(path)))


def parsed_json(text: str | bytes, where: str) -> Any:
    """The value of a JSON text; `where` begins the sentence of the TableError."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise TableError(f"{where} cannot be read: it is nested too deep") from error
    except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
        raise TableError(f"{where} cannot be read: {in_brief(error)}") from error
