"""A source as it was read: one table for each split, and the card that says how to read them; which columns a task reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc

from isolora.data.origins import file_of, own_columns
from isolora.data_cards import Card
from isolora.errors import DataError
from isolora.json_types import JsonMapping

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "validation",
    "validation_matched": "validation",
}
NO_CARD = Card()


@dataclass(frozen=True)
class Tables:
    """The splits that the source itself has, by the names train, validation and test; train is always there."""

    parts: dict[str, pa.Table]
    card: Card = NO_CARD


def split_of(name: str, card: Card) -> str | None:
    """Which split a file or a hub split of this name is: train, validation, test, or None; the card decides first."""
    if name in card.splits.values():
        return next(split for split, there in card.splits.items() if there == name)
    found = SPLIT_NAMES.get(name.lower(), name.lower())
    return found if found in SPLITS and found not in card.splits else None


@dataclass(frozen=True)
class TextTemplate:
    """How a row's text is put together: pieces of text, and columns by any name, `{` and `.` included."""

    pieces: tuple[str, ...]
    columns: tuple[str, ...]
    """One behind each piece but the last."""

    @classmethod
    def of_column(cls, name: str) -> TextTemplate:
        return cls(("", ""), (name,))

    @classmethod
    def parse(cls, text: str) -> TextTemplate:
        """From `{title}: {body}`, as a card has it; `{{` and `}}` mean the braces themselves."""
        parts = re.split(r"(?<!\{)\{([^{}]+)\}(?!\})", text)
        return cls(tuple(part.replace("{{", "{").replace("}}", "}") for part in parts[::2]), tuple(parts[1::2]))

    def fill(self, row: JsonMapping) -> str:
        """The row's text; a column that holds nothing adds nothing."""
        values = ("" if row[name] is None else str(row[name]) for name in self.columns)
        return "".join(map("".join, zip(self.pieces, values, strict=False))) + self.pieces[-1]


def columns_of_template(template: str) -> list[str]:
    return list(TextTemplate.parse(template).columns)


def check_card(card: Card, table: pa.Table) -> None:
    """Raises DataError for a card that names a column which some rows of train do not have."""
    named = [
        *columns_of_template(card.text or ""),
        *([card.apart] if card.apart else ()),
        *chain.from_iterable(card.keep.values()),
    ]
    missing = [name for name in named if name not in table.column_names]
    if table.num_rows and missing:
        there = ", ".join(own_columns(table).column_names)
        raise DataError(f"data.source: its data.json names a column {missing[0]!r} that is not there (columns: {there})")


def text_template(table: pa.Table, asked: str | None, given: str | None) -> TextTemplate | None:
    """How a row's text is put together: the column asked for, the source's own template, `text`, or the only column of strings.

    None where none of these is there (a task may need no text). Raises DataError for a column that is absent or holds no text.
    """
    if asked is not None:
        _check_text_column(table, asked)
        return TextTemplate.of_column(asked)
    strings = [field.name for field in table.schema if is_text(field.type)]
    found = "text" if "text" in strings else strings[0] if len(strings) == 1 else None
    if given:
        return TextTemplate.parse(given)
    return None if found is None else TextTemplate.of_column(found)


def columns_for_task(task: str, wanted: Mapping[str, bool], asked: Mapping[str, str], found: Tables) -> dict[str, pa.Table]:
    """The rows that the card keeps for a task, with the task's columns; asked: what a person maps otherwise than the card."""
    known, parts = found.card.columns.get(task, {}), found.parts
    used = {asked.get(name, known.get(name, name)) for name in wanted}
    for column, values in found.card.keep.get(task, {}).items():
        if column in used:
            parts = {split: part.filter(pc.is_in(part[column], pa.array(values))) for split, part in parts.items()}
    return {split: with_columns(part, wanted, known, asked) for split, part in parts.items()}


def with_columns(table: pa.Table, wanted: Mapping[str, bool], known: Mapping[str, str], asked: Mapping[str, str]) -> pa.Table:
    """The table with the columns a task asks for, under the task's names; wanted: column -> whether it must be there."""
    for name in asked:
        if name not in wanted:
            raise DataError(f"data.columns: the task knows no column {name!r} (valid: {', '.join(wanted) or 'none'})")
    for name, needed in wanted.items():
        source = asked.get(name, known.get(name, name))
        if source in table.column_names:
            values = table[source]
            table = table.drop_columns(name) if name in table.column_names else table
            table = table.append_column(name, values)
        elif needed or name in asked:
            raise DataError(
                f"data.columns: {file_of(table)} has no column {source!r} for the task's {name!r} "
                f"(columns: {', '.join(own_columns(table).column_names)})"
            )
    return table


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _check_text_column(table: pa.Table, name: str) -> None:
    if name not in table.column_names:
        raise DataError(f"data.text_field: no column {name!r} (columns: {', '.join(own_columns(table).column_names)})")
    kind = table.schema.field(name).type
    if not is_text(kind):
        raise DataError(f"data.text_field: column {name!r} holds {kind}, not text")


def has_text(table: pa.Table, columns: Sequence[str]) -> pa.Array:
    """Whether a row's text, of these columns, is more than white space, for every row."""
    mask = None
    for name in columns:
        own = pc.not_equal(pc.utf8_trim_whitespace(pc.fill_null(table[name].cast(pa.string()), "")), "")
        mask = own if mask is None else pc.or_(mask, own)
    return mask
