"""The verb list: what there is to choose from."""

from __future__ import annotations

from typing import Annotated

import typer

from isolora import data_cards, registry
from isolora.cli.answer import Json, answer, lines
from isolora.errors import ConfigError, unknown

KINDS = {
    "tasks": "task",
    "methods": "method",
    "laws": "law",
    "importers": "importer",
    "models": "",
    "architectures": "",
    "data": "data_card",
    "trainers": "trainer",
    "trackers": "tracker",
    "executors": "executor",
}
"""What may be listed -> its kind of plug-in, if it is one."""


def list_(
    kind: Annotated[str, typer.Argument(help=f"{', '.join(KINDS)}; models have weights, architectures their shape alone")],
    as_json: Json = False,
) -> None:
    """Names that a run, a study or a fit can use; those of other packages with the package's name."""
    names = found(kind)
    packages = {name: package for name in names if (package := registry.package_of(KINDS[kind], name))} if KINDS[kind] else {}
    shown = [f"{name}  (package {packages[name]})" if name in packages else name for name in names]
    words = lines(data_set_descriptions(packages)) if kind == "data" else "\n".join(shown)
    answer({kind: names, **({"packages": packages} if packages else {})}, words, as_json)


def found(kind: str) -> list[str]:
    if kind not in KINDS:
        raise ConfigError(unknown("kind", kind, KINDS))
    if kind == "models":
        from isolora.models import fetched, packaged_models

        return sorted(packaged_models() | fetched())
    if kind == "architectures":
        from isolora.models.architectures import packaged_architectures

        return sorted(packaged_architectures())
    if kind == "data":
        return sorted(data_cards.packaged_data())
    return registry.names(KINDS[kind])


def data_set_descriptions(packages: dict[str, str]) -> dict[str, str]:
    """What each data set is, which one of the hub it stands for, and the package that it comes with."""
    return {name: f"{data_cards.card_of(name).description}{_behind(name, packages)}" for name in found("data")}


def _behind(name: str, packages: dict[str, str]) -> str:
    hub = data_cards.card_of(name).hub
    return (f" (as {hub[0]})" if hub else "") + (f" (package {packages[name]})" if name in packages else "")


VERBS = (list_,)
