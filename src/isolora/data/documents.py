"""Documents: the drawn examples of a run, each with its fields and, where the source has one, its text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from isolora.config import DataConfig
from isolora.data import sources
from isolora.data.splits import complete, draw
from isolora.data.tables import columns_of, text_template, with_columns, without_empty
from isolora.errors import DataError


@dataclass(frozen=True)
class Documents:
    """Rows in the order drawn: the first n of a larger draw are the smaller one."""

    table: pa.Table
    template: str | None  # how a row's text is put together from its columns

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def texts(self) -> list[str]:
        """One text a row. Raises DataError when it is not clear which column holds it."""
        if self.template is None:
            raise DataError(f"data.text_field: say which column holds the text (columns: {', '.join(self.table.column_names)})")
        columns = {name: self.table[name].to_pylist() for name in columns_of(self.template)}
        rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        return [self.template.format_map({name: "" if value is None else value for name, value in row.items()}) for row in rows]

    @cached_property
    def fields(self) -> dict[str, list[Any]]:
        """Every column's values, one a row."""
        return dict(self.table.to_pydict())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the texts, or over all fields, in their order: equal for equal documents, wherever they came from."""
        digest = hashlib.sha256()
        for text in self.texts if self.template is not None else map(repr, self.table.to_pylist()):
            data = text.encode(errors="surrogatepass")
            digest.update(f"{len(data)}:".encode() + data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Splits:
    """What is trained on and what is not."""

    train: Documents
    validation: Documents
    test: Documents


def load(config: DataConfig, task: str = "causal-lm", wanted: Mapping[str, bool] | None = None) -> Splits:
    """Read `config.source`, divide it where it has no splits, and draw the examples asked for.

    wanted: the columns that the task asks for, and whether each must be there; without any, rows are texts.

    Held-out splits hold `eval_examples` documents, or all where there are fewer. Raises DataError, one line, for what a person
    can mend: no such source, a broken file, no such column, nothing in it, more training examples asked for than there are.
    """
    found = sources.read(config.source)
    template = None if wanted else text_template(found.parts["train"], config.text_field, found.template)
    if wanted:
        known = found.columns.get(task, {})
        found.parts.update({split: with_columns(part, wanted, known, config.columns) for split, part in found.parts.items()})
    parts = complete({split: _filled(config.source, part, split, template) for split, part in found.parts.items()}, template)
    available = parts["train"].num_rows
    if config.train_examples is not None and config.train_examples > available:
        raise DataError(f"data.train_examples: {config.train_examples} asked for, {config.source} has {available}")
    counts = {"train": config.train_examples or available, "validation": config.eval_examples, "test": config.eval_examples}
    drawn = {split: draw(parts[split], count, config.seed, split) for split, count in counts.items()}
    return Splits(**{split: Documents(table, template) for split, table in drawn.items()})


def _filled(source: str, table: pa.Table, split: str, template: str | None) -> pa.Table:
    kept = without_empty(table, template)
    if kept.num_rows == 0:
        raise DataError(f"data.source: {source} holds no examples ({split}: {table.num_rows} rows, none with text)")
    return kept
