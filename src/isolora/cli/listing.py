"""The verb list: what there is to choose from."""

from __future__ import annotations

from typing import Annotated

import typer

from isolora import registry
from isolora.cli.answer import Json, answer
from isolora.errors import ConfigError, unknown

KINDS = ("tasks", "methods", "laws", "models", "architectures", "data")


def list_(
    kind: Annotated[str, typer.Argument(help="tasks, methods, laws, data, models (with weights), architectures (shape alone)")],
    as_json: Json = False,
) -> None:
    """Names that a run or a fit can use."""
    names = found(kind)
    answer({kind: names}, "\n".join(names), as_json)


def found(kind: str) -> list[str]:
    if kind not in KINDS:
        raise ConfigError(unknown("kind", kind, KINDS))
    if kind == "models":
        from isolora.models import fetched, packaged

        return sorted(packaged() | fetched())
    if kind == "architectures":
        from isolora.architectures import known

        return sorted(known())
    if kind == "data":
        from isolora.data import packaged as packaged_data

        return sorted(packaged_data())
    return registry.names(kind.removesuffix("s"))


VERBS = (list_,)
