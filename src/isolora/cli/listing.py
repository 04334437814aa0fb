"""The verb list: what there is to choose from."""

from __future__ import annotations

from typing import Annotated

import typer

from isolora import data_cards, registry
from isolora.cli.answer import Json, answer, lines
from isolora.errors import ConfigError, unknown

KINDS = ("tasks", "methods", "laws", "models", "architectures", "data")


def list_(
    kind: Annotated[str, typer.Argument(help="tasks, methods, laws, data, models (with weights), architectures (shape alone)")],
    as_json: Json = False,
) -> None:
    """Names that a run or a fit can use."""
    names = found(kind)
    answer({kind: names}, lines(described()) if kind == "data" else "\n".join(names), as_json)


def found(kind: str) -> list[str]:
    if kind not in KINDS:
        raise ConfigError(unknown("kind", kind, KINDS))
    if kind == "models":
        from isolora.models import fetched, packaged

        return sorted(packaged() | fetched())
    if kind == "architectures":
        from isolora.models.architectures import known

        return sorted(known())
    if kind == "data":
        return sorted(data_cards.packaged())
    return registry.names(kind.removesuffix("s"))


def described() -> dict[str, str]:
    """What each packaged data set is, and which one of the hub it stands for."""
    cards = {name: data_cards.card_of(name) for name in found("data")}
    return {name: card.description + (f" (as {card.hub[0]})" if card.hub else "") for name, card in cards.items()}


VERBS = (list_,)
