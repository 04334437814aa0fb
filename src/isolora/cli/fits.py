"""Verbs of the numpy wing: fit, plan, report. None of them imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from isolora.cli.answer import Json, answer
from isolora.errors import ConfigError

Source = Annotated[Path, typer.Argument(help="a study's folder, or a CSV, Parquet or JSON Lines table with a loss column")]
Law = Annotated[str, typer.Option(help="name of a law, or auto: the one that predicts the held-out points best")]
Map = Annotated[
    list[str] | None, typer.Option("--map", metavar="n=COLUMN", help="which column holds n, d, p, u, loss, run, flops")
]
Target = Annotated[
    str, typer.Option(help="what the law is of: loss, or a metric of the points; a score such as f1 is fitted as 1 - f1")
]
Bootstrap = Annotated[int, typer.Option(min=0, help="bootstrap repeats over whole trajectories")]


def fit(
    source: Source,
    law: Law = "auto",
    target: Target = "loss",
    columns: Map = None,
    bootstrap: Bootstrap = 1000,
    holdout: Annotated[str, typer.Option(help="largest: judge laws on the largest budgets; none: on all points")] = "largest",
    as_json: Json = False,
) -> None:
    """Fit a scaling law to a table of losses, or to another measure of it."""
    from isolora.fit import fit as fit_law
    from isolora.table import read

    chosen = cast(Any, holdout)  # its two words are checked where they are used, with an error in one line
    fitted = fit_law(read(source, mapping(columns)), law=law, bootstrap=bootstrap, holdout=chosen, target=target)
    answer(fitted.to_json(), str(fitted), as_json)


def predict(
    source: Source,
    at: Annotated[list[str], typer.Option(help="where: a table, or key=value such as n=1e8")],
    law: Law = "auto",
    target: Target = "loss",
    columns: Map = None,
    bootstrap: Bootstrap = 1000,
    as_json: Json = False,
) -> None:
    """Predict the loss where nothing was measured."""
    from isolora.fit import fit as fit_law
    from isolora.table import SHORT_NAMES, read, read_places

    fitted = fit_law(read(source, mapping(columns)), law=law, bootstrap=bootstrap, target=target)
    places = read_places(at[0], mapping(columns))
    cols = {short: places[name] for short, name in SHORT_NAMES.items() if name in places}
    cols |= {"c": places["flops"]} if "flops" in places else {}
    cols |= {"learning_rate": places["learning_rate"]} if "learning_rate" in places else {}
    low, high = fitted.interval(cols)
    points = [{"predicted": float(a), "interval": [float(b), float(c)]} for a, b, c in zip(fitted.predict(cols), low, high)]
    answer({"points": points, "law": fitted.law, "warnings": []}, str(points), as_json)


def plan(
    source: Source,
    budget: Annotated[str, typer.Option(help="what may be spent, for example 1e15flops or 2h")],
    examples: Annotated[int | None, typer.Option(help="unique training examples at hand")] = None,
    memory: Annotated[str | None, typer.Option(help="memory at hand, for example 16GB")] = None,
    law: Law = "auto",
    target: Target = "loss",
    columns: Map = None,
    bootstrap: Bootstrap = 1000,
    as_json: Json = False,
) -> None:
    """Recommend base model, adapter, data and passes for a budget, with the loss to expect."""
    from isolora.fit import fit as fit_law
    from isolora.plan import parse_budget, parse_memory
    from isolora.plan import plan as plan_for
    from isolora.table import read

    limits = (parse_budget(budget), examples, parse_memory(memory) if memory else None)
    table = read(source, mapping(columns))
    recommendation = plan_for(fit_law(table, law=law, bootstrap=bootstrap, target=target), table, *limits)
    answer(recommendation.to_json(), str(recommendation), as_json)


def report(
    source: Source,
    out: Annotated[Path, typer.Option(help="the HTML file to write")] = Path("report.html"),
    law: Law = "auto",
    columns: Map = None,
    bootstrap: Bootstrap = 1000,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page about a study: curves, iso-FLOP profile, frontier, runs."""
    from isolora.fit import fit as fit_law
    from isolora.report import report as write_report
    from isolora.table import read

    table = read(source, mapping(columns))
    path = write_report(source, table, fit_law(table, law=law, bootstrap=bootstrap), out)
    answer({"report": str(path)}, f"report: {path}", as_json)


def mapping(words: list[str] | None) -> dict[str, str]:
    """`n=COLUMN` words as a mapping."""
    pairs = [word.partition("=") for word in words or []]
    for name, equals, column in pairs:
        if not (name and equals and column):
            raise ConfigError(f"--map: expected n=COLUMN, got {name + equals + column!r}")
    return {name: column for name, _, column in pairs}


VERBS = (fit, predict, plan, report)
