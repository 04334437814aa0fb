"""New texts under a saved classifier: a class or a number for each, or a tag for each word, with probabilities.

The same examples, batches and arithmetic as in training and `eval`, so that a held-out text gets the class that it was scored by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from isolora.data import Documents, LeftOut
from isolora.data.origins import row_origins
from isolora.data.sources import read_source
from isolora.data.table_source import with_columns
from isolora.data_cards import card_of
from isolora.errors import ConfigError, DataError
from isolora.json_types import JsonMapping, JsonObject
from isolora.runs.batches import collate, short_first
from isolora.runs.device import autocast
from isolora.runs.prepared import max_length
from isolora.tasks.base import IGNORED, Examples, problem_of
from isolora.tasks.class_heads import Classifier

if TYPE_CHECKING:
    from isolora.adapters.saved_adapter import Adapter


def classify(adapter: Adapter, texts: Sequence[str | JsonMapping], origins: Sequence[str] = ()) -> list[JsonObject]:
    """What the adapter says of each text, or of each row of the task's columns but its labels; `cut`: tokens that were not read.

    origins: what a row is called where it cannot be used. Raises ConfigError where the adapter's task tells no classes apart, and
    DataError, one line, for a text that it cannot read.
    """
    task, tokenizer = classifier(adapter), adapter.base.tokenizer
    if not texts:
        return []
    rows = [task.unlabelled(row if isinstance(row, Mapping) else {"text": row}) for row in texts]
    for place, row in enumerate(rows):
        if problem := problem_of(task, row):
            raise DataError(f"classify: {origins[place] if origins else f'text {place + 1}'}: {problem}")
    longest = max_length(adapter.config, adapter.base.max_length)
    examples = task.examples(Documents(pa.Table.from_pylist(rows), None), tokenizer, longest)
    scores = _scores(adapter, task, examples)
    return [
        {**task.classified(row, own), "cut": task.tokens_cut(row, tokenizer, longest)}
        for row, own in zip(rows, scores, strict=True)
    ]


def classifier(adapter: Adapter) -> Classifier:
    """The adapter's task. Raises ConfigError where it tells no classes apart."""
    if isinstance(adapter.task, Classifier):
        return adapter.task
    raise ConfigError(
        f"classify: an adapter of task {adapter.task.name} tells no classes apart; isolora generate lets it write, "
        "isolora eval measures it on its data"
    )


def unlabelled_rows(adapter: Adapter, file: Path) -> tuple[list[JsonObject], list[str]]:
    """(rows with the task's columns but its labels, their origins) of a data file, under the names that training was told."""
    task, config = classifier(adapter), adapter.config.data
    found = read_source(str(file), LeftOut(False))
    wanted = {name: needed for name, needed in task.columns.items() if name not in task.label_columns}
    asked = {name: column for name, column in config.columns.items() if name in wanted}
    known = card_of(config.source).columns.get(task.name, {})
    table = with_columns(found.parts["train"], wanted, known, asked)
    return table.select([name for name in wanted if name in table.column_names]).to_pylist(), row_origins(table)


def _scores(adapter: Adapter, task: Classifier, examples: Examples) -> list[NDArray[np.float64]]:
    """Scores [labels, classes] of each document, in their order."""
    training, device = adapter.config.training, next(adapter.attached.model.parameters()).device
    found: dict[int, NDArray[np.float64]] = {}  # by place among all labels
    with torch.no_grad(), autocast(device, training.precision):
        for indices in short_first(examples, training.batch_tokens):
            batch = collate(examples, indices, np.ones(len(indices), np.float32), adapter.base.pad_id).to(device)
            given = task.scores(adapter.attached.model, batch).double().cpu().numpy()
            rows, columns = indices[batch.target_rows.cpu().numpy()], (batch.positions % batch.input_ids.shape[1]).cpu().numpy()
            found.update(zip((examples.starts[rows] + columns).tolist(), given, strict=True))
    numbers = np.arange(len(examples)) if examples.documents is None else examples.documents
    owners = np.repeat(numbers, examples.lengths)
    asked = np.flatnonzero(examples.labels != IGNORED)
    ends = np.flatnonzero(np.diff(owners[asked])) + 1
    return [np.stack([found[int(place)] for place in places]) for places in np.split(asked, ends)]
