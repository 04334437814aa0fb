"""Writes docs/reference.md from the settings' own descriptions and the verbs' help; `--check` says whether it is fresh.

python -m isolora.cli.reference [--check]
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from isolora import registry
from isolora.cli import app
from isolora.config import DataConfig, RangeConfig, RunConfig, SearchConfig, StudyConfig, TrainingConfig, TuneConfig

PAGE = Path("docs/reference.md")
SECTIONS = (
    ("A run", "", RunConfig),
    ("data", "data.", DataConfig),
    ("training", "training.", TrainingConfig),
    ("A study", "", StudyConfig),
    ("tune", "tune.", TuneConfig),
    ("search", "search.", SearchConfig),
    ("a range in search.space", "", RangeConfig),
)


def reference() -> str:
    """The page's text."""
    parts = ["# Reference", "", "Generated from the code by `make docs`; edit the descriptions there.", "", "## Verbs", ""]
    for command in app.registered_commands:
        assert command.callback is not None
        parts += _verb(str(command.name), command.callback)
    for title, prefix, model in SECTIONS:
        parts += ["", f"## {title}", "", *_fields(prefix, model)]
    for name in registry.names("method"):
        parts += ["", f"## method: {name}", "", *_fields("method.", registry.load("method", name).Settings)]
    for kind in ("task", "law"):
        parts += ["", f"## {kind}s", "", *(f"- `{name}`: {_summary(kind, name)}" for name in registry.names(kind))]
    return "\n".join(parts) + "\n"


def _verb(name: str, callback: Callable[..., Any]) -> list[str]:
    lines = [f"### isolora {name}", "", inspect.getdoc(callback) or "", ""]
    hints = get_type_hints(callback, include_extras=True)
    for parameter in inspect.signature(callback).parameters.values():
        [info] = getattr(hints[parameter.name], "__metadata__", [None])
        option = _written(parameter, info)
        default = "" if parameter.default in (inspect.Parameter.empty, None, False) else f" (default `{parameter.default}`)"
        lines.append(f"- `{option}`: {info.help}{default}")
    return [*lines, ""]


def _written(parameter: inspect.Parameter, info: Any) -> str:
    if type(info).__name__ == "ArgumentInfo":
        return str(info.metavar or parameter.name.upper())
    named = [word for word in (info.default, *(info.param_decls or ())) if str(word).startswith("--")]
    return str(named[0]) if named else "--" + parameter.name.replace("_", "-")


def _fields(prefix: str, model: type[BaseModel]) -> Iterator[str]:
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
        yield f"| `{prefix}{name}` | {_kind(field.annotation)} | {default} | {field.description or 'see below'} |"


def _kind(annotation: Any) -> str:
    """A type in a reader's words: bounds and packing left out."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(_kind(option) for option in get_args(annotation) if option is not type(None))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "group of keys"
    if get_origin(annotation) is tuple:
        return f"list of {_kind(get_args(annotation)[0])}"
    words = {str: "text", float: "number", int: "whole number", bool: "true or false"}
    return words.get(annotation, "list" if get_origin(annotation) is list else "keys and values")


def _default(value: Any) -> str:
    return "see below" if isinstance(value, BaseModel) else f"`{value}`"


def _summary(kind: str, name: str) -> str:
    module = sys.modules[type(registry.load(kind, name)).__module__]
    return (inspect.getdoc(module) or "").split("\n")[0]


def main() -> None:
    text = reference()
    if "--check" not in sys.argv:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"{PAGE} is not fresh; run: make docs")


if __name__ == "__main__":
    main()
