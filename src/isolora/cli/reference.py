"""Writes docs/reference.md from the settings' own descriptions and the verbs' help; `--check` says whether it is fresh.

python -m isolora.cli.reference [--check]
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from isolora import registry
from isolora.cli import app
from isolora.config import RunConfig, StudyConfig
from isolora.config.plug_ins import PlugInConfig

PAGE = Path("docs/reference.md")
SPLITS = """\
How a source is divided. A folder or a hub set with files or splits called `train`, `validation` (also `valid`, `val`, `dev`,
`eval`) and `test` is taken as it is divided. What is missing is cut from `train`, 10 % of its distinct rows each, by a hash of
what a row says: equal rows stay on one side, and the same file is always cut in the same way, whatever the run's seed. From the
held-out part `data.eval_examples` rows are drawn, or all where there are fewer.

Splits of your own: put `train.jsonl`, `validation.jsonl` and `test.jsonl` (or `.csv`, `.parquet`) into one folder and name the
folder as `data.source`. `isolora preview` shows the sizes."""


def reference() -> str:
    """The page's text: every verb, every key of a run and a study with all groups in them, every plug-in's own keys."""
    parts = ["# Reference", "", "Generated from the code by `make docs`; edit the descriptions there.", "", "## Verbs", ""]
    for command in app.registered_commands:
        assert command.callback is not None
        parts += _verb(str(command.name), command.callback)
    for title, model in (("A run", RunConfig), ("A study", StudyConfig)):
        for prefix, group in _groups(model, ""):
            heading = f"{title}: {prefix.rstrip('.')}" if prefix else title
            parts += ["", f"## {heading}", "", _sentence(group), "", *_fields(prefix, group)]
    parts += ["", "## Splits", "", SPLITS]
    for name in _own("task"):
        parts += ["", f"## task: {name}", "", _summary("task", name), "", *_columns(name)]
        parts += _fields("task.", registry.load_plug_in("task", name).Settings)
    for name in _own("method"):
        parts += ["", f"## method: {name}", "", _summary("method", name), ""]
        parts += _fields("method.", registry.load_plug_in("method", name).Settings)
    for kind in ("law", "importer", "trainer", "tracker", "executor"):
        parts += ["", f"## {kind}s", "", *(f"- `{name}`: {_summary(kind, name)}" for name in _own(kind))]
    return "\n".join(parts) + "\n"


def _own(kind: str) -> list[str]:
    """isolora's own plug-ins: the page does not depend on what else is installed where it is made."""
    return [name for name in registry.names(kind) if not registry.package_of(kind, name)]


def _groups(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """(prefix of its keys, settings) of a model and of all settings in its fields; task and method have pages of their own."""
    yield prefix, model
    for name, field in model.model_fields.items():
        for inner in _settings_in(field.annotation):
            if not issubclass(inner, PlugInConfig):
                yield from _groups(inner, f"{prefix}{name}.")


def _settings_in(annotation: object) -> Iterator[type[BaseModel]]:
    """Settings that a type is, or holds as one of several, in a list or in a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for option in get_args(annotation):
        yield from _settings_in(option)


def _sentence(model: type[BaseModel]) -> str:
    """Of its own docstring, not of the class that it is made from."""
    return inspect.cleandoc(model.__doc__ or "").split("\n\n")[0] if "__doc__" in vars(model) else ""


def _columns(name: str) -> list[str]:
    """What a document of the task needs."""
    columns = registry.load_plug_in("task", name).columns
    if not columns:
        return ["Columns: a text.", ""]
    shown = ", ".join(f"`{column}`" + ("" if needed else " (if there)") for column, needed in columns.items())
    return [f"Columns: {shown}.", ""]


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
    if not model.model_fields:
        yield "No keys of its own."
        return
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


def _default(value: object) -> str:
    return "see below" if isinstance(value, BaseModel) else f"`{value}`"


def _summary(kind: str, name: str) -> str:
    if kind == "law":
        law = registry.load_plug_in(kind, name)
        known = f" Also known as {', '.join(f'`{alias}`' for alias in law.aliases)}." if law.aliases else ""
        return f"`{law.formula}` ({law.citation}): {law.sentence}{known}"
    module = import_module(registry.module_of(kind, name))
    return (inspect.getdoc(module) or "").split("\n")[0]


def main() -> None:
    text = reference()
    if "--check" not in sys.argv:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"{PAGE} is not fresh; run: make docs")


if __name__ == "__main__":
    main()
