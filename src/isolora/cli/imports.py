"""The verb import: another tool's sweep as a table that laws are fitted to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isolora.cli.answer import Json, answer


def import_(
    source: Annotated[Path, typer.Argument(help="the tool's files: a folder, a database or an export")],
    tool: Annotated[
        str, typer.Option("--from", help="wandb, tensorboard, mlflow, optuna, trackio, trainer or peft; `isolora list importers`")
    ],
    out: Annotated[Path, typer.Option(help="the table to write: .csv, .parquet or .jsonl")],
    as_json: Json = False,
) -> None:
    """Turn another tool's runs into a table for fit and plan; says with counts what was left out and what was assumed."""
    from isolora.imports import import_runs

    found = import_runs(source, tool, out)
    answer(found.to_json(), str(found), as_json)


VERBS = (import_,)
