"""Cards of data sets: how the rows of one are read for each task, from a file `data.json` beside them.

Packaged sets are known by name, the samples of hub sets as `sample-NAME`. A sample's card reads the hub's own set too, so that
the two cannot drift apart. Other packages bring data sets of their own: entry points of the group `isolora.data_cards` name a
folder with `data.json` and a file for each split.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from isolora import registry
from isolora.errors import DataError
from isolora.json_types import JsonMapping


class Card(BaseModel):
    """How a data set is read.

    hub: the id of the hub's set in this schema, then other names for it; text: how a row's text is put together, such as
    "{synopsis}\\n\\n{description}"; columns: task -> column it asks for -> column here; keep: task -> column here -> values of
    the rows that the task reads; splits: train, validation or test -> the split here, null for one that cannot be used; apart:
    column whose equal values stay in one split where held-out rows are cut from train; task: task -> settings that the rows need.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    description: str = ""
    hub: tuple[str, ...] = ()
    text: str | None = None
    columns: Mapping[str, Mapping[str, str]] = {}
    keep: Mapping[str, Mapping[str, tuple[str, ...]]] = {}
    splits: Mapping[str, str | None] = {}
    apart: str | None = None
    task: Mapping[str, JsonMapping] = {}


def read_card(folder: Path) -> Card:
    """The folder's card, an empty one where it has none. Raises DataError that names the key that is wrong."""
    path = folder / "data.json"
    if not path.is_file():
        return Card()
    try:
        return Card.model_validate_json(path.read_bytes())
    except ValidationError as failure:
        first = failure.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(f"{path}: {where}: {first['msg']} (valid keys: {', '.join(Card.model_fields)})") from None


@cache
def packaged_data() -> dict[str, Path]:
    """Data sets that come with isolora or with an installed package: name -> folder. One of another package that cannot be found
    is told and left out."""
    return {name: registry.load_plug_in("data_card", name) for name in registry.usable("data_card")}


@cache
def hub_cards() -> dict[str, Card]:
    """Cards of hub data sets, under their ids and their other names."""
    return {name: card for card in map(read_card, packaged_data().values()) for name in card.hub}


def card_of(source: str) -> Card:
    """The card of a set known by name or of one of the hub; an empty one for any other source."""
    return read_card(packaged_data()[source]) if source in packaged_data() else hub_cards().get(source, Card())
