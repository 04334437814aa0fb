"""Jinja templates of prompts and conversations, given as text or as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from jinja2 import TemplateError
from pydantic import AfterValidator

FAILURES = (TemplateError, ArithmeticError, TypeError, ValueError)
"""What a template may raise while it is filled: it is a small program."""


def _read(given: str) -> str:
    """A file's text takes its name's place, so that a run's identity holds what it says."""
    if "{" in given or "\n" in given:
        return given
    path = Path(given).expanduser()
    if not path.is_file():
        raise ValueError(f"{given!r} is neither a Jinja template nor a file that holds one")
    return path.read_text(encoding="utf-8")


Template = Annotated[str, AfterValidator(_read)]
