"""Jinja templates of prompts, given as text or as a file, and filled with the fields of a row."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any

from jinja2 import DictLoader, StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, meta
from jinja2 import Template as Compiled
from jinja2.sandbox import SandboxedEnvironment
from pydantic import AfterValidator

from isolora.errors import ConfigError, DataError, in_brief, unknown
from isolora.json_types import JsonMapping
from isolora.paths import expanded

FAILURES = (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What a template may raise while it is filled: it is a small program."""


def _read(given: str) -> str:
    """A file's text takes its name's place, so that a run's identity holds what it says."""
    if "{" in given or "\n" in given:
        return given
    try:
        return expanded(given).read_text(encoding="utf-8")
    except UnicodeDecodeError as failure:
        raise ValueError(f"{given}: not UTF-8 at byte {failure.start}; save it as UTF-8") from None
    except (OSError, ValueError):  # a folder, or a name too long
        raise ValueError(f"{given!r} is neither a Jinja template nor a file that holds one") from None


Template = Annotated[str, AfterValidator(_read)]


def _text(value: object) -> Any:
    """What a prompt shows of a field's value."""
    if isinstance(value, list | dict):
        name = type(value).__name__
        raise TypeError(f"a field holds {name}, not text; name a part of it, such as field[0] (task conversation reads turns)")
    return "" if value is None else value


JINJA = SandboxedEnvironment(loader=DictLoader({}), undefined=StrictUndefined, finalize=_text)


@lru_cache(maxsize=64)
def _compiled(template: str) -> Compiled:
    """Jinja compiles a text anew each time that it is asked to, a hundred times slower than filling it."""
    return JINJA.from_string(template)


def fill_template(setting: str, template: str, row: JsonMapping) -> str:
    """The template with a row's fields in it. Raises ConfigError or DataError, naming the setting, where that cannot be."""
    try:
        return _compiled(template).render({str(name): value for name, value in row.items()})
    except TemplateSyntaxError as failure:
        raise ConfigError(f"task.{setting}: line {failure.lineno}: {failure.message}") from None
    except UndefinedError as failure:
        missing = sorted(meta.find_undeclared_variables(JINJA.parse(template)) - row.keys())
        raise DataError(f"task.{setting}: {unknown('field', missing[0], row) if missing else failure}") from None
    except FAILURES as failure:
        raise DataError(f"task.{setting}: {in_brief(failure)}") from None
