"""A study to start from, written for the data and the models that a person has: what `isolora init` puts into a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from isolora import registry
from isolora.config import DataConfig, RunConfig, TaskConfig, parse
from isolora.data.origins import LeftOut, own_columns
from isolora.data.sources import read
from isolora.data_cards import card_of
from isolora.errors import DataError
from isolora.models import packaged
from isolora.runs.documents import DocumentLoader

FALLBACK_TASK = "causal-lm"
HELD_OUT_SHARE = 0.2
MOST_HELD_OUT = 500
TOKENS_A_WORD = 1.5
"""A rough count, good enough to choose a first budget: subword tokenizers need 1.3 to 1.8 tokens an English word."""

TEMPLATE = """\
# Written by `isolora init`. Next:
#   isolora preview {file}                what the model will see
#   isolora cost {file} --calibrate       runs, FLOPs, memory, time before it starts
#   isolora study {file}                  train it; a second call does only what is missing
#   isolora report runs/{name}            one page with curves, law and advice
name: {name}
base:                                  # a run's configuration that all runs share; keys: docs/reference.md
  task: {task}
  data:
    source: {source_yaml}
    eval_examples: {held_out}          # held-out examples that the loss is measured on, of {rows:,} rows found
    max_length: {max_length}                  # longest example in tokens
    on_error: skip                     # rows that cannot be used are left out and counted; stop: the first one ends the run
  training:
    tokens: {tokens}                   # the largest budget; every run is measured along the way
    batch_tokens: 1024
    evaluate_from: {evaluate_from}
    evaluate_ratio: 1.4142136          # each evaluation at so many times the tokens of the one before
grid:                                  # every combination is trained
  model: {models}
  method.rank: [4, 16]
  training.learning_rate: [2.5e-3, 5.0e-3, 1.0e-2]
tune: {{over: training.learning_rate, tokens: {tune_tokens}}}   # every model and rank tries all rates on this budget first
stack: 8                               # adapters that may ride on one frozen base at a time
"""


@dataclass(frozen=True)
class Found:
    """What a data source holds. tasks: those that can read its rows, the one that asks for most columns first; words: of its
    training texts, roughly."""

    source: str
    rows: int
    columns: tuple[str, ...]
    tasks: tuple[str, ...]
    words: int


def look(source: str) -> Found:
    """Read a source as `data.source` would. Raises DataError where it leads nowhere."""
    tables = read(source, LeftOut(skip=True))
    train = tables.parts["train"]
    own = own_columns(train)
    columns, sample = tuple(own.column_names), own.slice(0, 200).to_pylist()
    words = sum(len(json.dumps(row, default=str).split()) for row in sample)
    return Found(source, train.num_rows, columns, _tasks(source, columns), words * train.num_rows // max(1, len(sample)))


def _tasks(source: str, columns: Sequence[str]) -> tuple[str, ...]:
    """Tasks whose needed columns are there, those that need most first; plain text last."""
    known = card_of(source).columns
    fitting = []
    for name in registry.names("task"):
        needed = {column for column, must in registry.load("task", name).columns.items() if must}
        if needed and needed <= {*columns, *known.get(name, {})}:
            fitting.append((-len(needed), name))
    return (*(name for _, name in sorted(fitting)), FALLBACK_TASK)


def check(source: str, task: str) -> None:
    """Raises DataError or ConfigError where the task cannot read the source."""
    config = parse(RunConfig, {"data": {"source": source, "on_error": "skip", "eval_examples": 1}, "task": task})
    DocumentLoader().load(DataConfig(**config.data.model_dump()), TaskConfig.model_validate(task))


def starter_study(
    found: Found, task: str, models: Sequence[str], name: str, file: str, tokens: int | None = None, max_length: int = 256
) -> str:
    """The YAML of a study. tokens: the largest budget; about one pass over the data, at most 200,000 where not given."""
    if not found.rows:
        raise DataError(f"data.source: {found.source} holds no rows")
    budget = tokens or max(8192, min(200_000, round(found.words * TOKENS_A_WORD)))
    return TEMPLATE.format(
        source=found.source,
        source_yaml=json.dumps(found.source),
        task=task,
        file=file,
        name=name,
        rows=found.rows,
        held_out=max(1, min(MOST_HELD_OUT, round(found.rows * HELD_OUT_SHARE))),
        max_length=max_length,
        tokens=budget,
        evaluate_from=max(512, budget // 16),
        models=json.dumps(list(models) or list(packaged())[:3]),
        tune_tokens=max(2048, budget // 4),
    )
