"""A study to start from, written for the data and the models that a person has: what `isolora init` puts into a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from isolora import registry
from isolora.config import DataConfig, RunConfig, TaskConfig, parse
from isolora.data.origins import LeftOut, own_columns
from isolora.data.sources import read_source
from isolora.data.table_source import text_template
from isolora.data_cards import card_of
from isolora.errors import DataError, unknown
from isolora.json_types import JsonObject
from isolora.models import packaged_models
from isolora.runs.document_loader import DocumentLoader

FALLBACK_TASK = "causal-lm"
MOST_HELD_OUT = 500
TOKENS_A_WORD = 1.5
"""A rough count, good enough to choose a first budget: subword tokenizers need 1.3 to 1.8 tokens an English word."""

TEMPLATE = """\
{header}name: {name}
base:                                  # a run's configuration that all runs share; keys: docs/reference.md
  task: {task}
  data:
    source: {source_yaml}
{columns}    eval_examples: {held_out}          # held-out examples that the loss is measured on, of {rows:,} rows found
    max_length: {max_length}                  # longest example in tokens
    on_error: skip                     # rows that cannot be used are left out and counted; stop: the first one ends the run
  training:
    tokens: {tokens}                   # the largest budget; every run is measured along the way
    batch_tokens: {batch_tokens}
    evaluate_from: {evaluate_from}
    evaluate_ratio: 1.4142136          # each evaluation at so many times the tokens of the one before
grid:                                  # every combination is trained
  model: {models}
  method.rank: [4, 16]
  training.learning_rate: {rates}
{train_examples}
tune: {{over: training.learning_rate, tokens: {tune_tokens}}}   # every model and rank tries all rates on this budget first
stack: 8                               # adapters that may ride on one frozen base at a time
"""


@dataclass(frozen=True)
class _Pace:
    """How a study of one kind of task goes forward. passes, tokens: its largest budget, whichever is less."""

    rates: str
    batch_tokens: int
    passes: float
    tokens: int


EVERY_TOKEN = _Pace("[2.5e-3, 5.0e-3, 1.0e-2]", 1024, 1.0, 200_000)
ONE_LABEL = _Pace("[1.0e-3, 2.5e-3, 5.0e-3]", 2048, 2.0, 400_000)
"""Where an example carries one label, a batch of 1,024 tokens holds a dozen of them: on 3,000 rows of six classes the losses
scattered by 18 % about a law, and nothing could be recommended; with these by 5 %."""


@dataclass(frozen=True)
class SourceSummary:
    """What a data source holds. renamed: what a task asks for -> the source's own column; tasks: those that can read its rows,
    the one that asks for most columns first; words: of its training texts, roughly."""

    source: str
    rows: int
    columns: tuple[str, ...]
    renamed: Mapping[str, str]
    tasks: tuple[str, ...]
    words: int

    def keys(self, task: str) -> JsonObject:
        """The keys under `data` that name its columns: `columns`, or `text_field` for a task that reads texts alone."""
        if registry.load_plug_in("task", task).columns:
            return {"columns": dict(self.renamed)} if self.renamed else {}
        return {"text_field": self.renamed["text"]} if "text" in self.renamed else {}


@dataclass(frozen=True)
class Wanted:
    """What the study is asked to be. tokens: the largest budget; about one pass over the data and at most 200,000 when absent, or
    twice that where an example carries one label;
    train_examples: numbers of examples to compare."""

    task: str
    models: Sequence[str]
    held_out: int
    tokens: int | None = None
    max_length: int = 256
    train_examples: Sequence[int] = ()


def look(source: str, renamed: Mapping[str, str] | None = None) -> SourceSummary:
    """Read a source as `data.source` would. Raises DataError where it leads nowhere or has no such column."""
    tables = read_source(source, LeftOut(skip=True))
    train = tables.parts["train"]
    own = own_columns(train)
    columns, sample = tuple(own.column_names), own.slice(0, 200).to_pylist()
    for name in (renamed or {}).values():
        if name not in columns:
            raise DataError(f"--columns: {unknown(f'column of {source}', name, columns)}")
    tasks = _tasks(source, (*columns, *(renamed or {})))
    if tasks == (FALLBACK_TASK,) and text_template(train, (renamed or {}).get("text"), tables.card.text) is None:
        raise DataError(
            f"--columns: no task knows a column of {source} by its name ({', '.join(columns)}); say which one holds the text, and"
            f" which the classes if it has any: --columns text={_wordiest(sample, columns)} --columns label=COLUMN"
        )
    words = sum(len(json.dumps(row, default=str).split()) for row in sample)
    return SourceSummary(source, train.num_rows, columns, renamed or {}, tasks, words * train.num_rows // max(1, len(sample)))


def _wordiest(sample: Sequence[JsonObject], columns: Sequence[str]) -> str:
    """The column with the longest texts: most likely what is meant."""
    lengths = {name: sum(len(row[name]) for row in sample if isinstance(row[name], str)) for name in columns}
    return max(lengths, key=lambda name: lengths[name])


def _tasks(source: str, columns: Sequence[str]) -> tuple[str, ...]:
    """Tasks whose needed columns are there, those that need most first; plain text last."""
    known = card_of(source).columns
    fitting = []
    for name in registry.names("task"):
        needed = {column for column, must in registry.load_plug_in("task", name).columns.items() if must}
        if needed and needed <= {*columns, *known.get(name, {})}:
            fitting.append((-len(needed), name))
    return (*(name for _, name in sorted(fitting)), FALLBACK_TASK)


def held_out_rows(found: SourceSummary, task: str, train_examples: int = 0) -> int:
    """How many rows the loss can be measured on, at most MOST_HELD_OUT. Raises DataError or ConfigError where the task cannot
    read the source, or where it has fewer training examples."""
    keys = {"source": found.source, "on_error": "skip", "eval_examples": MOST_HELD_OUT, **found.keys(task)}
    config = parse(RunConfig, {"data": keys | ({"train_examples": train_examples} if train_examples else {}), "task": task})
    return len(DocumentLoader().load(DataConfig(**config.data.model_dump()), TaskConfig.model_validate(task)).validation)


def starter_study(found: SourceSummary, wanted: Wanted, name: str, file: str) -> str:
    """The YAML of a study."""
    if not found.rows:
        raise DataError(f"data.source: {found.source} holds no rows")
    one_label = registry.load_plug_in("task", wanted.task).labels_per_row == 1
    pace = ONE_LABEL if one_label else EVERY_TOKEN
    budget = wanted.tokens or max(8192, min(pace.tokens, round(pace.passes * found.words * TOKENS_A_WORD)))
    return TEMPLATE.format(
        source=found.source,
        source_yaml=json.dumps(found.source),
        columns="".join(f"    {key}: {json.dumps(value)}\n" for key, value in found.keys(wanted.task).items()),
        task=wanted.task,
        name=name,
        rows=found.rows,
        held_out=wanted.held_out,
        max_length=wanted.max_length,
        tokens=budget,
        batch_tokens=pace.batch_tokens,
        rates=pace.rates,
        evaluate_from=max(512, budget // 16),
        models=json.dumps(list(wanted.models) or list(packaged_models())[:3]),
        train_examples=_examples_line(found, wanted),
        tune_tokens=max(2048, budget // 4),
        header=_header(name, file, " --target accuracy" if one_label else ""),
    )


def _header(name: str, file: str, target: str) -> str:
    """The way from the file to a verified adapter, one command a line."""
    steps = {
        f"isolora preview {file}": "what the model will see",
        f"isolora cost {file} --calibrate": "runs, FLOPs, memory, time before it starts",
        f"isolora study {file} --workers 2": "train it; a second call does only what is missing; it says what to type next",
        f"isolora report runs/{name}{target}": "one page with curves, law and advice",
        f"isolora plan runs/{name}{target} --budget 2h": "what to train for so much time, money or FLOPs",
        f"isolora verify runs/{name}{target} --budget 2h": "train that, and compare it with the prediction",
    }
    width = max(map(len, steps))
    return "# Written by `isolora init`. Next:\n" + "".join(f"#   {line:{width}}  {what}\n" for line, what in steps.items())


def _examples_line(found: SourceSummary, wanted: Wanted) -> str:
    """Numbers of examples to compare; without any a comment shows how, since each one doubles the study."""
    if wanted.train_examples:
        return f"  data.train_examples: {json.dumps(list(wanted.train_examples))}"
    some = max(1, (found.rows - 2 * wanted.held_out) // 4)
    return f"# data.train_examples: [{some}, {2 * some}]   # take the comment away to compare numbers of examples: runs double"
