"""Documents: the rows that a run has drawn, each with its columns and, where the source has one, its text."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from isolora.config import DataConfig
from isolora.data import sources, streams
from isolora.data.files import one_line
from isolora.data.origins import LeftOut, file_of, left_out_summary, own_columns, row_origins
from isolora.data.reservoirs import draw_streams
from isolora.data.splits import draw, with_held_out
from isolora.data.table_source import Tables, TextTemplate, check_card, columns_for_task, has_text, is_text, text_template
from isolora.data_cards import Card
from isolora.errors import DataError
from isolora.json_types import JsonObject
from isolora.tasks.base import Task, problem_of


@dataclass(frozen=True)
class Documents:
    """Rows in the order drawn: the first n of a larger draw are the smaller one.

    template: how a row's text is put together from its columns; sources: file and row of each (see `origins`); left_out: the
    origins of rows that could not be used, and why.
    """

    table: pa.Table
    template: TextTemplate | str | None
    sources: pa.Table | None = None
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: pa.Table, template: TextTemplate | None) -> Documents:
        """From rows with their origins beside them."""
        own = own_columns(table)
        return cls(own, template, table.drop_columns(own.column_names))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def rows(self) -> Iterator[JsonObject]:
        """Each row's columns."""
        names = list(self.fields)
        return (dict(zip(names, values, strict=True)) for values in zip(*self.fields.values(), strict=True))

    def origin(self, place: int) -> str:
        """File and row that a document comes from, such as `people.jsonl line 17`."""
        return f"row {place + 1} of those drawn" if self.sources is None else row_origins(self.sources.slice(place, 1))[0]

    def at(self, places: Sequence[int]) -> Documents:
        """The documents at these places."""
        chosen = pa.array(places, pa.int64())
        return replace(self, table=self.table.take(chosen), sources=None if self.sources is None else self.sources.take(chosen))

    @cached_property
    def texts(self) -> list[str]:
        """One text a row. Raises DataError when it is not clear which column holds it."""
        if self.template is None:
            raise _no_text_column(self.table)
        template = TextTemplate.parse(self.template) if isinstance(self.template, str) else self.template
        columns = {name: self.table[name].to_pylist() for name in template.columns}
        return [template.fill(dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]

    @cached_property
    def fields(self) -> dict[str, list[Any]]:
        """Every column's values, one a row. Raises DataError for a column whose values have no form in Python."""
        found = {}
        for name in self.table.column_names:
            try:
                found[name] = self.table[name].to_pylist()
            except (ArithmeticError, ValueError) as failure:  # a year beyond 9999, a text that is not UTF-8
                raise DataError(f"data: {file_of(self.sources)}: column {name!r}: {failure}") from None
        return found

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the texts, or over all fields, in their order: equal for equal documents, wherever they came from."""
        digest = hashlib.sha256()
        for text in self.texts if self.template is not None else map(repr, self.table.to_pylist()):
            data = text.encode(errors="surrogatepass")
            digest.update(f"{len(data)}:".encode() + data)
        return digest.hexdigest()


def in_both(train: Documents, held_out: Documents) -> int:
    """How many held-out documents stand in training too, word for word, as a source's own splits may have it."""
    names = sorted(train.fields.keys() & held_out.fields.keys())
    if train.template is not None and held_out.template is not None:
        seen = set(train.texts)
        return sum(text in seen for text in held_out.texts)
    rows = [map(repr, zip(*(part.fields[name] for name in names), strict=True)) for part in (train, held_out)]
    known = set(rows[0])
    return sum(row in known for row in rows[1])


@dataclass(frozen=True)
class Splits:
    """The documents of the three splits."""

    train: Documents
    validation: Documents
    test: Documents


def load_documents(config: DataConfig, task: Task | None = None) -> Splits:
    """Read `config.source`, split it where it has no splits, and draw the examples asked for.

    task: decides which columns the rows have. Without a task, or with one that asks for no columns, rows are texts.

    Held-out splits hold `eval_examples` documents, or all where there are fewer. A row that cannot be used is found after the
    draw, and no other row takes its place, so that smaller draws stay subsets of larger ones. Raises DataError, one line: no such
    source, a broken file, a row that cannot be used, no such column, an empty split, or fewer training examples than asked for.
    """
    left_out = LeftOut(config.on_error == "skip")
    with one_line(f"data.source: {config.source}"):
        row_format, tables = (_stream if config.streaming else _read)(config, task, left_out)
    drawn = {split: Documents.of(table, row_format.template) for split, table in tables.items()}
    drawn["train"] = replace(drawn["train"], left_out=tuple(left_out.rows))
    if task and task.columns:
        drawn |= _usable_splits(drawn["train"], drawn[config.eval_split], config, task)
    return Splits(**drawn)


@dataclass(frozen=True)
class RowFormat:
    """How the rows of a source are read for a task. template: of a row's text, where the task asks for no columns."""

    config: DataConfig
    task: Task | None
    card: Card
    left_out: LeftOut
    template: TextTemplate | None = None

    @classmethod
    def of(cls, config: DataConfig, task: Task | None, card: Card, left_out: LeftOut, rows: pa.Table) -> RowFormat:
        """From the first rows of train."""
        check_card(card, rows)
        template = None if task and task.columns else text_template(rows, config.text_field, card.text)
        if task and not task.columns and template is None:
            raise _no_text_column(own_columns(rows))
        return cls(config, task, card, left_out, template)

    @property
    def together(self) -> tuple[str, ...]:
        """Columns whose equal values must stay in one split; none means all of them."""
        if self.card.apart:
            return (self.card.apart,)
        return self.template.columns if self.template else ()

    def rows(self, split: str, table: pa.Table) -> pa.Table:
        """The rows with the task's columns; for a task on texts, without the rows whose text is empty."""
        if self.task and self.task.columns:
            return columns_for_task(self.task.name, self.task.columns, self.config.columns, Tables({split: table}, self.card))[
                split
            ]
        if self.template is None:
            return table
        mask = has_text(table, self.template.columns)
        if split in ("train", self.config.eval_split):
            for origin in row_origins(table.filter(pc.invert(mask))):
                self.left_out.add(origin, "the text is empty (data.on_error=skip leaves such rows out)")
        return table.filter(mask)

    def counts(self, available: int) -> dict[str, int]:
        """Rows to draw of each split, of those available for train."""
        held_out = self.config.eval_examples
        return {"train": self.config.drawn_examples(available), "validation": held_out, "test": held_out}


def _no_text_column(table: pa.Table) -> DataError:
    """What is said where it is not clear which column holds the text."""
    kinds = ((field.name, "" if is_text(field.type) else f" of {field.type}") for field in table.schema)
    return DataError(f"data.text_field: say which column holds the text (columns: {', '.join(map(''.join, kinds))})")


def _read(config: DataConfig, task: Task | None, left_out: LeftOut) -> tuple[RowFormat, dict[str, pa.Table]]:
    """(how rows are read, the drawn rows of each split) of a source that fits in memory."""
    found = sources.read_source(config.source, left_out)
    for split, table in found.parts.items():
        _refuse_empty(config, split, table)
    row_format = RowFormat.of(config, task, found.card, left_out, found.parts["train"])
    tables = {split: row_format.rows(split, table) for split, table in found.parts.items()}
    _none_empty(config, tables)
    parts = with_held_out(tables, row_format.together)
    counts = row_format.counts(parts["train"].num_rows)
    return row_format, {split: draw(parts[split], count, config.seed, split) for split, count in counts.items()}


def _stream(config: DataConfig, task: Task | None, left_out: LeftOut) -> tuple[RowFormat, dict[str, pa.Table]]:
    """As `_read`, for a source that is streamed: each row is seen once."""
    found = streams.open_source(config.source, left_out)
    blocks = iter(found.parts["train"])
    first = next((block for block in blocks if block.num_rows), pa.table({}))
    _refuse_empty(config, "train", first)
    row_format = RowFormat.of(config, task, found.card, left_out, first)
    parts = {**found.parts, "train": chain([first], blocks)}
    rows = {split: map(partial(row_format.rows, split), part) for split, part in parts.items()}
    counts = row_format.counts(sys.maxsize)
    tables = draw_streams(rows, counts, config.seed, row_format.together)
    _none_empty(config, tables)
    config.drawn_examples(tables["train"].num_rows)  # fewer are refused
    return row_format, tables


def _refuse_empty(config: DataConfig, split: str, table: pa.Table) -> None:
    if not table.num_rows:
        raise DataError(f"data.source: {config.source} has no rows in {split}")


def _none_empty(config: DataConfig, tables: Mapping[str, pa.Table]) -> None:
    for split, table in tables.items():
        if table.num_rows == 0:
            raise DataError(f"data.source: {config.source} holds no examples with text ({split})")


def _usable_splits(train: Documents, held_out: Documents, config: DataConfig, task: Task) -> dict[str, Documents]:
    """The documents that the task can use: the usable rows of training decide the classes, which judge both splits."""
    skip = config.on_error == "skip"
    train = usable_documents(train, task, skip)
    bound = task.bound(task.settings, task.find_labels(train), task.architecture)
    return {"train": usable_documents(train, bound, skip), config.eval_split: usable_documents(held_out, bound, skip)}


def usable_documents(documents: Documents, task: Task, skip: bool) -> Documents:
    """The documents that the task can use. Raises DataError, naming file and row, for the first that it cannot, unless such rows
    are skipped; and where none is left."""
    problems = {place: problem for place, row in enumerate(documents.rows()) if (problem := problem_of(task, row))}
    return without(documents, problems, skip)


def without(documents: Documents, problems: Mapping[int, str], skip: bool) -> Documents:
    """The documents but those at these places, each with its problem. Raises DataError, naming file and row, for the first of
    them unless such rows are skipped; and where none is left."""
    left_out = LeftOut(skip)
    for place, problem in problems.items():
        left_out.add(documents.origin(place), problem)
    if not left_out.rows:
        return documents
    if len(problems) == len(documents):
        raise DataError(f"data.on_error: no row is left ({left_out_summary(left_out.rows)})")
    kept = [place for place in range(len(documents)) if place not in problems]
    return replace(documents.at(kept), left_out=(*documents.left_out, *left_out.rows))
