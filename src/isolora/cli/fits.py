"""Verbs of the numpy wing: fit, predict, plan, report. None of them imports torch."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from isolora.cli.answer import Json, answer
from isolora.errors import ConfigError, TableError
from isolora.json_types import JsonMapping
from isolora.paths import is_file, is_there

if TYPE_CHECKING:
    from isolora.fit import Fit
    from isolora.plan import NoRecommendation
    from isolora.table import Table

Source = Annotated[
    Path,
    typer.Argument(
        help="a study's folder, or a CSV, TSV, Parquet, JSON or JSON Lines table with a column of losses or of --target"
    ),
]
Law = Annotated[
    str, typer.Option(help="name of a law, or auto: an average weighed by how well each predicts the held-out points")
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map", metavar="n=COLUMN", help="which column holds n, d, p, u, c, loss, run; d=flops/(6n) and c=6nd compute it"
    ),
]
Target = Annotated[
    str, typer.Option(help="what the law is of: loss, or a metric of the points; a score such as f1 is fitted as 1 - f1")
]
Bootstrap = Annotated[int, typer.Option(min=0, help="bootstrap repeats over whole trajectories")]
Method = Annotated[str | None, typer.Option(help="only the points of this method")]
Where = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="only points with this in a column, or in what runs differ in (data.max_length=128)"),
]
Examples = Annotated[int | None, typer.Option(min=1, help="unique training examples at hand")]
Memory = Annotated[str | None, typer.Option(help="memory at hand, for example 16GB")]
Serve = Annotated[str | None, typer.Option(help="tokens of inference that the budget pays for too, for example 1e9tokens")]
ForgetAtMost = Annotated[float | None, typer.Option(help="nats a token that other texts may lose")]
PricePerHour = Annotated[float | None, typer.Option(help="price of an hour, for a budget in money")]
On = Annotated[str | None, typer.Option(help="an accelerator to say the time for, such as H100, in place of this machine")]
Utilisation = Annotated[float | None, typer.Option(help="share of that accelerator's peak rate that such runs reach")]
Precision = Annotated[
    str | None, typer.Option(help="what they compute in there: by default as in the study, and bfloat16 for a table")
]


def fit(
    source: Source,
    law: Law = "auto",
    target: Target = "loss",
    columns: Map = None,
    method: Method = None,
    where: Where = None,
    bootstrap: Bootstrap = 1000,
    holdout: Annotated[str, typer.Option(help="largest: judge laws on the largest budgets; none: on all points")] = "largest",
    as_json: Json = False,
) -> None:
    """Fit a scaling law to a table of losses, or to another measure of it."""
    from isolora.fit import fit as fit_law

    chosen = cast(Any, holdout)  # its two words are checked where they are used, with an error in one line
    table = read_points(source, columns, method, where, target)
    fitted = fit_law(table, law=law, bootstrap=bootstrap, holdout=chosen, target=target)
    answer(fitted.to_json(), str(fitted), as_json)


def predict(
    source: Source,
    at: Annotated[
        list[str],
        typer.Option(help="where: a table of places, or key=value such as n=1e8, or model=nano-1m rank=8 tokens=1e6"),
    ],
    more: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="more of the place, behind --at")] = None,
    law: Law = "auto",
    target: Target = "loss",
    columns: Map = None,
    method: Method = None,
    where: Where = None,
    bootstrap: Bootstrap = 1000,
    as_json: Json = False,
) -> None:
    """Predict the loss, with a 95 % interval, where nothing was measured; SOURCE may be the answer of `fit --json`."""
    from isolora.fit import fit as fit_law
    from isolora.fit import places

    fitted, table = written_fit(source), None
    if fitted is None:
        table = read_points(source, columns, method, where, target)
        fitted = fit_law(table, law=law, bootstrap=bootstrap, target=target)
    result = places.predicted(fitted, places.asked([*at, *(more or [])], mapping(columns)), table)
    shown = [point.get("score", point) for point in result["points"]]  # a score rather than its error
    lines = [f"{each['predicted']:.4f}  [{each['interval'][0]:.4f}, {each['interval'][1]:.4f}]" for each in shown]
    named = (
        f"{shown[0]['name']}, by law {fitted.law} of {fitted.target}"
        if "name" in shown[0]
        else f"{fitted.target} by law {fitted.law}"
    )
    words = [named, *lines, *(f"mind: {sentence}" for sentence in result["warnings"])]
    answer(result, "\n".join(words), as_json)


def plan(
    source: Source,
    budget: Annotated[str | None, typer.Option(help="what may be spent, for example 1e15flops, 2h or 20usd")] = None,
    reach: Annotated[
        str | None, typer.Option(help="the inverse: what it takes to reach a loss or a score, for example loss=2.1 or f1=0.9")
    ] = None,
    examples: Examples = None,
    memory: Memory = None,
    forget_at_most: ForgetAtMost = None,
    serve: Serve = None,
    price_per_hour: PricePerHour = None,
    on: On = None,
    utilisation: Utilisation = None,
    precision: Precision = None,
    charge_study: Annotated[bool, typer.Option("--charge-study", help="the budget pays for the runs of the study too")] = False,
    next_: Annotated[
        Path | None, typer.Option("--next", help="a study file to write, of the runs that would narrow the decision most")
    ] = None,
    law: Law = "auto",
    target: Target = "loss",
    columns: Map = None,
    method: Method = None,
    where: Where = None,
    bootstrap: Bootstrap = 1000,
    as_json: Json = False,
) -> None:
    """Recommend base model, adapter, data and passes for a budget, with the loss to expect; or say what a goal takes."""
    from isolora.cost.accelerators import Place
    from isolora.cost.table_times import memory_on, timed_on
    from isolora.plan import NoRecommendation, asked_limits, asked_plan
    from isolora.plan.reach import parse_reach

    if (budget is None) == (reach is None):
        raise ConfigError("plan needs exactly one of --budget (such as 1e15flops, 2h, 20usd) and --reach (such as loss=2.1)")
    if next_ is not None and is_there(next_):
        raise ConfigError(f"--next: {next_} exists already; name another")
    wanted = parse_reach(reach)[0] if reach is not None and target == "loss" else target
    place = Place(on, utilisation)
    table = timed_on(read_points(source, columns, method, where, wanted), source, place, precision)
    limits = asked_limits(examples, memory, forget_at_most, serve, memory_on(place, table))
    try:
        found = asked_plan(table, budget, reach, price_per_hour, limits, law, target, bootstrap, charge_study)
    except NoRecommendation as refusal:
        _, _, details = refusal.words().partition("\n")  # the reason itself goes to standard error
        if as_json or details:
            answer(refusal.to_json(), details + kept_adapter(source, refusal), as_json)
        _write_next(next_, source, refusal.measure_next)
        raise
    answer(found.to_json(), str(found), as_json)
    _write_next(next_, source, getattr(found, "measure_next", ()))


def kept_adapter(source: Path, refusal: NoRecommendation) -> str:
    """A line with the folder of the best measured run's adapter, which is what a person can use; empty where there is none."""
    folder = source / "adapters" / str((refusal.measured or {}).get("run"))
    return f"\n  its adapter: {folder}" if is_there(folder) else ""


def _write_next(file: Path | None, source: Path, runs: Sequence[JsonMapping]) -> None:
    """Write the next runs as a study, where a file is asked for."""
    from isolora.plan.next_study import write_next

    if file is None:
        return
    if not runs:
        print(f"isolora: no run would narrow this decision, so {file} was not written", file=sys.stderr)
        return
    write_next(file, source, runs)
    print(f"isolora: {len(runs)} next runs are in {file}", file=sys.stderr)


def report(
    source: Source,
    out: Annotated[Path, typer.Option(help="the HTML file to write")] = Path("report.html"),
    budget: Annotated[
        str | None, typer.Option(help="what the page plans for, for example 1e15flops or 2h; by default 4 x the largest run")
    ] = None,
    examples: Examples = None,
    memory: Memory = None,
    forget_at_most: ForgetAtMost = None,
    serve: Serve = None,
    price_per_hour: PricePerHour = None,
    on: On = None,
    utilisation: Utilisation = None,
    precision: Precision = None,
    law: Law = "auto",
    target: Target = "loss",
    columns: Map = None,
    method: Method = None,
    where: Where = None,
    bootstrap: Bootstrap = 1000,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page about a study: its advice or why there is none, pictures, sliders, runs."""
    from isolora.cost.accelerators import Place
    from isolora.cost.table_times import memory_on
    from isolora.plan import asked_limits, parse_budget
    from isolora.report import report as write_report

    place, table = Place(on, utilisation, price_per_hour), read_points(source, columns, method, where, target)
    path = write_report(
        source,
        table,
        out=out,
        target=target,
        law=law,
        bootstrap=bootstrap,
        budget=parse_budget(budget, price_per_hour) if budget else None,
        limits=asked_limits(examples, memory, forget_at_most, serve, memory_on(place, table)),
        place=place,
        precision=precision,
    )
    answer({"report": str(path)}, f"report: {path}", as_json)


def read_points(
    source: Path, columns: list[str] | None, method: str | None, where: list[str] | None = None, target: str = "loss"
) -> Table:
    """The table of a source, or of one of its methods, or of the points with some values; target: what is to be fitted."""
    from isolora.fit.target import ERROR_OF
    from isolora.table import read

    table = read(source, mapping(columns), target.removeprefix(ERROR_OF).strip())
    if method is not None and "method" not in table:
        raise TableError(f"--method: {source} has no column of methods (columns: {', '.join(table.columns)})")
    for word in [*([f"method={method}"] if method is not None else []), *(where or [])]:
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"--where: expected KEY=VALUE such as data.max_length=128, got {word!r}")
        table = table.having(name.strip(), value.strip())
    return table


def written_fit(source: Path) -> Fit | None:
    """The fit that a JSON file holds; None for any other source."""
    from isolora.fit import Fit
    from isolora.table.foreign import foreign_json

    if source.suffix != ".json" or not is_file(source):
        return None
    state = foreign_json(source)
    return Fit.from_json(state) if isinstance(state, dict) and {"law", "parameters", "draws"} <= state.keys() else None


def mapping(words: list[str] | None, option: str = "--map", form: str = "n=COLUMN") -> dict[str, str]:
    """`n=COLUMN` words as a mapping."""
    pairs = [word.partition("=") for word in words or []]
    for name, equals, column in pairs:
        if not (name and equals and column):
            raise ConfigError(f"{option}: expected {form}, got {name + equals + column!r}")
    if twice := [name for name, count in Counter(name for name, _, _ in pairs).items() if count > 1]:
        raise ConfigError(f"{option}: {twice[0]} is given twice")
    return {name: column for name, _, column in pairs}


VERBS = (fit, predict, plan, report)
