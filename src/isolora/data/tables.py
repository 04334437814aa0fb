"""A source as it was read: one table a split, and the template that puts a row's text together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Formatter

import pyarrow as pa
import pyarrow.compute as pc

from isolora.errors import DataError

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "validation",
    "validation_matched": "validation",
}


@dataclass(frozen=True)
class Tables:
    """Splits that the source itself has, by their canonical names; one called `train` is always there."""

    parts: dict[str, pa.Table]
    template: str | None = None  # such as "{synopsis}\n\n{description}"; None where the column has to be found
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # task -> column it asks for -> column here


def canonical(split: str) -> str:
    """`dev` and `valid` mean `validation`; other names stay."""
    return SPLIT_NAMES.get(split.lower(), split.lower())


def columns_of(template: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(template) if name]


def text_template(table: pa.Table, asked: str | None, given: str | None) -> str | None:
    """How a row's text is put together: the column asked for, the source's own template, `text`, or the only column of strings.

    None where none of these is there (a task may need no text). Raises DataError for a column that is absent or holds no text.
    """
    if asked is not None:
        _check_text_column(table, asked)
        return f"{{{asked}}}"
    strings = [field.name for field in table.schema if is_text(field.type)]
    found = "text" if "text" in strings else strings[0] if len(strings) == 1 else None
    return given or (f"{{{found}}}" if found else None)


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
                f"data.columns: no column {source!r} for the task's {name!r} (columns: {', '.join(table.column_names)})"
            )
    return table


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _check_text_column(table: pa.Table, name: str) -> None:
    if name not in table.column_names:
        raise DataError(f"data.text_field: no column {name!r} (columns: {', '.join(table.column_names)})")
    kind = table.schema.field(name).type
    if not is_text(kind):
        raise DataError(f"data.text_field: column {name!r} holds {kind}, not text")


def without_empty(table: pa.Table, template: str | None) -> pa.Table:
    """Rows whose text is more than white space."""
    if template is None:
        return table
    filled = [pc.not_equal(pc.utf8_trim_whitespace(pc.fill_null(table[name], "")), "") for name in columns_of(template)]
    mask = filled[0]
    for other in filled[1:]:
        mask = pc.or_(mask, other)
    return table.filter(mask)
