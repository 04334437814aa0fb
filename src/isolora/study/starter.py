"""A study to start from, written for the data and the models that a person has: what `isolora init` puts into a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import yaml

from isolora import registry
from isolora.config import DataConfig, RunConfig, TaskConfig, parse
from isolora.data.origins import LeftOut, own_columns
from isolora.data.sources import read_source
from isolora.data.table_source import text_template
from isolora.data_cards import Card
from isolora.errors import DataError, unknown
from isolora.json_types import JsonObject
from isolora.models import packaged_models
from isolora.runs.document_loader import DocumentLoader
from isolora.tasks.base import Task, problem_of

FALLBACK_TASK = "causal-lm"
MOST_HELD_OUT, LEAST_HELD_OUT, FEWEST_BETWEEN = 500, 100, 27
HELD_OUT_SHARE = 0.12
"""Of a study's FLOPs that its held-out losses may take: 10 to 15 % of the time of its steps and evaluations. They scatter
together, being of the same texts, so that a law and a choice among runs ask for fewer of them than one loss would."""
TRAINED_OVER_MEASURED = 2.05
"""FLOPs of a token that is trained on over those of one that is measured: nothing leads back to a frozen base's weights."""
EVALUATIONS, TRIALS, SHARES = 9, 3, 4
"""Of a run of the template, trials of its base and rank on a quarter of its tokens each, and parts of the held-out examples that
take turns."""
LEAST_TOKENS, MOST_PASSES = 8192, 4
"""Of a run's largest budget; beyond four passes repeats are worth little (Muennighoff et al. 2305.16264)."""
TOKENS_A_WORD = 1.5
"""A rough count, good enough to choose a first budget: subword tokenizers need 1.3 to 1.8 tokens an English word."""

TEMPLATE = """\
{header}name: {name_yaml}
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
{between}grid:                                  # every combination is trained
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
PAIRS = replace(EVERY_TOKEN, batch_tokens=2048, passes=2.0, tokens=400_000)
"""Where two answers are compared, at 250 tokens a pair: 200,000 tokens are 800 pairs, and 100 held-out ones took 20 % of
the time."""


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
    """What the study is asked to be. most_held_out: rows that the loss can be measured on; tokens: the largest budget; about one
    pass over the data and at most 200,000 when absent, or twice that where an example carries one label or is a pair of answers;
    train_examples: numbers of examples to compare."""

    task: str
    models: Sequence[str]
    most_held_out: int
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
    tasks = _tasks(tables.card, {**{name: name for name in columns}, **(renamed or {})}, sample)
    text = (renamed or {}).get("text")
    turns = _columns_of_turns(sample, columns) if text is None else []
    if tasks == (FALLBACK_TASK,) and (turns or text_template(train, text, tables.card.text) is None):
        raise DataError(
            f"--columns: no task knows a column of {source} by its name ({', '.join(columns)}); say which one holds"
            f" {f'the turns: --columns messages={turns[0]}' if turns else _text_columns(sample, columns)}"
        )
    words = sum(len(json.dumps(row, default=str).split()) for row in sample)
    return SourceSummary(source, train.num_rows, columns, renamed or {}, tasks, words * train.num_rows // max(1, len(sample)))


def _text_columns(sample: Sequence[JsonObject], columns: Sequence[str]) -> str:
    text = f"--columns text={_wordiest(sample, columns)}"
    return f"the text, and which the classes if it has any: {text} --columns label=COLUMN"


def _columns_of_turns(sample: Sequence[JsonObject], columns: Sequence[str]) -> list[str]:
    return [name for name in columns if sample and all(_are_turns(row[name]) for row in sample)]


def _are_turns(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) and len(turn) > 1 for turn in value)


def _wordiest(sample: Sequence[JsonObject], columns: Sequence[str]) -> str:
    """The column with the longest texts: most likely what is meant."""
    lengths = {name: sum(len(row[name]) for row in sample if isinstance(row[name], str)) for name in columns}
    return max(lengths, key=lambda name: lengths[name])


def _tasks(card: Card, found: Mapping[str, str], sample: Sequence[JsonObject]) -> tuple[str, ...]:
    """Tasks whose needed columns are there and that can read most of the sample: those that need most first, of these the ones
    that cannot do without and that know fewest others; plain text last. found: what a task may ask for -> the source's own."""
    fitting = []
    for name in registry.names("task"):
        task: Task = registry.load_plug_in("task", name)
        known = {**found, **card.columns.get(name, {})}
        own = {column for column, must in task.columns.items() if must}
        sets = [own | set(one) for one in task.either or ((),) if own | set(one) and own | set(one) <= known.keys()]
        if sets and (name in card.columns or _reads_most(task, known, sample)):
            fitting.append((-max(map(len, sets)), not own, len(task.columns), name))
    return (*(name for *_, name in sorted(fitting)), FALLBACK_TASK)


def _reads_most(task: Task, known: Mapping[str, str], sample: Sequence[JsonObject]) -> bool:
    """Whether a task finds no fault with half of the rows or more."""
    rows = [{name: row[known[name]] for name in task.columns if known.get(name) in row} for row in sample]
    return not sample or sum(not problem_of(task, row) for row in rows) * 2 >= len(rows)


def usable_held_out(found: SourceSummary, task: str, train_examples: int = 0) -> int:
    """How many rows the loss can be measured on, at most MOST_HELD_OUT. Raises DataError or ConfigError where the task cannot
    read the source, or where it has fewer training examples."""
    keys = {"source": found.source, "on_error": "skip", "eval_examples": MOST_HELD_OUT, **found.keys(task)}
    config = parse(RunConfig, {"data": keys | ({"train_examples": train_examples} if train_examples else {}), "task": task})
    return len(DocumentLoader().load(DataConfig(**config.data.model_dump()), TaskConfig.model_validate(task)).validation)


def budget_tokens(found: SourceSummary, wanted: Wanted) -> int:
    """The largest budget of a run."""
    pace = _pace(wanted.task)
    return wanted.tokens or max(LEAST_TOKENS, min(pace.tokens, round(pace.passes * found.words * TOKENS_A_WORD)))


def held_out_count(found: SourceSummary, wanted: Wanted) -> int:
    """On how many rows points are measured: so many, of those there are, that it takes HELD_OUT_SHARE of the study's FLOPs."""
    mean = max(1.0, min(wanted.max_length, TOKENS_A_WORD * found.words / max(1, found.rows))) * _texts_a_row(wanted.task)
    whole = TRIALS + 2 + (EVALUATIONS - 2) / SHARES
    trained = TRAINED_OVER_MEASURED * budget_tokens(found, wanted) * (1 + TRIALS / 4)
    rows = HELD_OUT_SHARE / (1 - HELD_OUT_SHARE) * trained / (whole * mean)
    return min(wanted.most_held_out, max(LEAST_HELD_OUT, int(float(f"{rows:.2g}"))))


def _texts_a_row(task: str) -> int:
    """Two where answers are compared: the prompt, which is most of a row, stands before each."""
    return 2 if _pace(task) is PAIRS else 1


def _pace(task: str) -> _Pace:
    plain: Task = registry.load_plug_in("task", task)
    if plain.labels_per_row == 1:
        return ONE_LABEL
    return PAIRS if plain.bound(plain.Settings()).second == "rejected" else EVERY_TOKEN


def starter_study(found: SourceSummary, wanted: Wanted, name: str, file: str) -> str:
    """The YAML of a study."""
    if not found.rows:
        raise DataError(f"data.source: {found.source} holds no rows")
    pace, budget, rows = _pace(wanted.task), budget_tokens(found, wanted), held_out_count(found, wanted)
    return TEMPLATE.format(
        source=found.source,
        source_yaml=_quoted(found.source),
        columns="".join(f"    {key}: {_quoted(value)}\n" for key, value in found.keys(wanted.task).items()),
        task=wanted.task,
        name_yaml=name if yaml.safe_load(name) == name else _quoted(name),  # 2026.yaml and no.yaml are names too
        rows=found.rows,
        held_out=rows,
        max_length=wanted.max_length,
        tokens=budget,
        batch_tokens=pace.batch_tokens,
        rates=pace.rates,
        evaluate_from=max(512, budget // 16),
        between=_between_line(rows),
        models=_quoted(list(wanted.models) or list(packaged_models())[:3]),
        train_examples=_examples_line(found, wanted, rows),
        tune_tokens=max(2048, budget // 4),
        header=_header(name, file, " --target accuracy" if pace is ONE_LABEL else ""),
    )


def _between_line(held_out: int) -> str:
    """A quarter of the held-out examples for the evaluations between, where that is enough of them."""
    count = max(FEWEST_BETWEEN, held_out // SHARES)
    if count > held_out // 2:
        return ""
    return f"    evaluate_between: {count:<16} # held-out examples at each evaluation between the first and the last, in turn\n"


def _quoted(value: object) -> str:
    """As YAML and a person read it: letters as they are, and nothing raw that does not print."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


def within_data(found: SourceSummary, tokens: int) -> int:
    """Tokens that a run may be given: no fewer than the least, and no more than MOST_PASSES over the data."""
    return max(LEAST_TOKENS, min(tokens, round(MOST_PASSES * found.words * TOKENS_A_WORD)))


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


def _examples_line(found: SourceSummary, wanted: Wanted, held_out: int) -> str:
    """Numbers of examples to compare; without any a comment shows how, since each one doubles the study."""
    if wanted.train_examples:
        return f"  data.train_examples: {json.dumps(list(wanted.train_examples))}"
    some = max(1, (found.rows - 2 * held_out) // 4)
    return f"# data.train_examples: [{some}, {2 * some}]   # take the comment away to compare numbers of examples: runs double"
