"""Verbs on single runs: train, eval, forget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isolora.cli.answer import Json, answer, lines

Words = Annotated[
    list[str] | None, typer.Argument(metavar="[RUN.yaml] [KEY=VALUE ...]", help="a run's YAML file and keys that win over it")
]


def train(
    words: Words = None,
    out: Annotated[Path, typer.Option(help="the run's folder")] = Path("runs/run"),
    resume: Annotated[
        bool, typer.Option(help="the folder must hold this run already; without the flag a missing one is begun")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train one adapter; a run that was cut off goes on where it stopped."""
    from isolora.config import load_run
    from isolora.training import train as train_run
    from isolora.training.checks import words as said

    result = train_run(load_run(*split_words(words)), out, must_exist=resume)
    compared = [said(name, values) for name, values in result.get("checks", {}).items()]
    answer(result, "\n".join([lines({key: value for key, value in result.items() if key != "checks"}), *compared]), as_json)


def eval_(folder: Annotated[Path, typer.Argument(help="a run's or an adapter's folder")], as_json: Json = False) -> None:
    """Recompute a saved adapter's held-out loss from its folder alone."""
    from isolora.evaluation import evaluate

    result = evaluate(folder)
    answer(result, lines(result), as_json)


def forget(
    folder: Annotated[Path, typer.Argument(help="a run's or an adapter's folder")],
    source: Annotated[list[str] | None, typer.Option(help="texts to measure on, as in data.source; may be given again")] = None,
    examples: Annotated[int | None, typer.Option(min=1, help="held-out texts of each source")] = None,
    as_json: Json = False,
) -> None:
    """Measure what a saved adapter has forgotten: loss on other texts without and with it."""
    from isolora.evaluation import forget as measure

    result = measure(folder, source or (), examples)
    rows = [
        f"{name}: {found['before']:.4f} before, {found['after']:.4f} after, {found['forgotten']:+.4f} nats a token"
        for name, found in result["sources"].items()
    ]
    answer(result, "\n".join(rows), as_json)


def split_words(words: list[str] | None) -> tuple[Path | None, list[str]]:
    """The YAML file, if the first word is one, and the key=value words."""
    given = list(words or [])
    if given and "=" not in given[0]:
        return Path(given[0]), given[1:]
    return None, given


VERBS = (train, eval_, forget)
