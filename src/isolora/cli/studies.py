"""Verbs on whole studies: demo, study, status, stop."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isolora.cli.answer import Json, answer
from isolora.errors import UserError
from isolora.json_types import JsonObject
from isolora.metrics.direction import is_score

if TYPE_CHECKING:
    from isolora.store import Store

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="a study's or a run's folder")]


def demo(
    out: Annotated[Path, typer.Option(help="the folder of the study, its report and its adapter")] = Path("demo-out"),
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="seed of adapters, data order and the texts drawn")] = 0,
    as_json: Json = False,
) -> None:
    """The whole story on packaged models and data: study, law, recommendation, and the proof that it held."""
    _expect_workers(out)
    from isolora.study.demo import demo as run_demo

    story = run_demo(out, seed=seed, quiet=as_json)
    answer(story.to_json(), str(story), as_json)


def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="the study: base, and grid or search")],
    out: Annotated[Path | None, typer.Option(help="the study's folder; runs/NAME when absent")] = None,
    executor: Annotated[str, typer.Option(help="where stacks are trained; see `isolora list executors`")] = "local",
    workers: Annotated[int, typer.Option(min=1, help="processes that train stacks side by side")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="price the study and train nothing")] = False,
    address: Annotated[str | None, typer.Option(help="of a Ray cluster; without it one is started for the study")] = None,
    as_json: Json = False,
) -> None:
    """Train a grid of runs in stacks, or search for the best values; a second call does only what is missing.

    Exit status 1 when stacks failed: the others have been trained, and the same command tries those again.
    """
    from isolora.config import load_study

    config = load_study(file)
    if executor == "local" and workers > 1 and not dry_run:
        _expect_workers(out or Path("runs") / config.name)
    from isolora.store import Store
    from isolora.study.executors.base import StudyFailed
    from isolora.study.running import run_study
    from isolora.study.search import search_result

    if dry_run:
        from isolora.study.study_price import price_study

        price = price_study(config, workers=workers)
        answer(price.to_json(), str(price), as_json)
        return
    folder, failure = out or Path("runs") / config.name, None
    try:
        run_study(config, folder, executor, workers, as_json, address, import_last_lines)
    except StudyFailed as broken:
        failure = broken
    result, words = study_summary(Store(folder))
    if config.search and failure is None:
        found = search_result(config, Store(folder))
        result, words = {**result, "search": found.to_json()}, f"{words}\n{found}"
    answer(result | ({"failed": str(failure)} if failure else {}), f"{words}{next_steps(Store(folder))}", as_json)
    if failure:
        print(f"isolora: {failure}", file=sys.stderr)
        raise typer.Exit(1)


def _expect_workers(folder: Path) -> None:
    """Let what workers need be imported beside our own imports, unless there may be nothing to train."""
    from isolora.child_process import import_ahead
    from isolora.store import FILE

    if not (folder / FILE).exists():
        import_ahead()


def import_last_lines() -> None:
    """Import what a study's last lines are made with, 0.7 processor seconds. Its workers begin while it does."""
    for name in ("isolora.plan", "isolora.fit.remarks", "isolora.study.status", "scipy.stats"):
        import_module(name)


def study_summary(store: Store) -> tuple[JsonObject, str]:
    """What a study's folder holds, as JSON and in words."""
    from isolora.store import state_name
    from isolora.study.status import stopped_early

    states = list(map(state_name, store.states().values()))
    counts = {state: states.count(state) for state in sorted(set(states))}
    found: JsonObject = {"folder": str(store.folder), "runs": len(states), "states": counts, "points": len(store.points())}
    shown = ", ".join(f"{count} {state}" for state, count in counts.items())
    words = f"{store.folder}: {len(states)} runs ({shown}), {found['points']} points{_best(store.folder)}"
    if early := stopped_early(store):
        found["stopped_early"] = early
        saved = early["saved_flops"] / sum(point["flops"] for point in store.last_points())
        words += (
            f"\nstopped early: {early['runs']} runs, which saved {early['saved_flops']:.3g} FLOPs, {saved:.0%} of what was spent"
        )
    return found, words


def _best(folder: Path) -> str:
    """The adapter with the lowest held-out loss of a study, or with the fewest bits per byte where losses do not compare, in
    words; nothing where none was kept."""
    from isolora.fit import targeted
    from isolora.fit.remarks import demand_one_measure
    from isolora.study.status import status as look
    from isolora.table import read

    kept = {line.run: line for line in look(folder).each if line.adapter and line.loss is not None}
    if not kept:
        return ""
    try:
        table = read(folder)
        demand_one_measure(table)
        measured = targeted(table, "loss")
    except UserError:  # losses that do not compare: `fit` says why
        return ""
    found = measured.table
    rows = sorted(zip(found["tokens"], found["run"], found["loss"], strict=True), key=lambda row: row[0])
    last = {str(run): float(value) for _, run, value in rows if str(run) in kept}
    if not last:
        return ""
    best = kept[min(last, key=lambda run: last[run])]
    rank = f" of rank {best.rank}" if best.rank else ""
    return f"\nlowest {measured.name}: {last[best.run]:.4f}, {best.model} with {best.method}{rank}: {best.adapter}"


def next_steps(store: Store) -> str:
    """What to type after a study, in words: a page, and a plan for a few times its largest run; nothing without points."""
    points = store.points()
    if not points:
        return ""
    scores = [name for name in json.loads(points[-1]["metrics"] or "{}") if is_score(name)]
    budget = _budget_with_an_answer(store.folder, max(point["flops"] for point in points), scores[0] if scores else "loss")
    target = f" --target {scores[0]}" if scores else ""
    return f"\nnext: isolora report {store.folder}{target}\n      isolora plan {store.folder}{target} --budget {budget}"


def _budget_with_an_answer(folder: Path, largest: float, target: str) -> str:
    """Twice the largest run, or a few times more where only that carries a recommendation: a run that was lucky beats what is
    expected of twice its FLOPs."""
    from isolora.fit import fit
    from isolora.plan import NoRecommendation, plan
    from isolora.table import read

    budgets = [f"{factor * largest:.2g}flops".replace("e+", "e") for factor in _SUGGESTED]
    try:
        table = read(folder, measure=target)
        law = fit(table, bootstrap=_QUICK_BOOTSTRAP, target=target)
    except UserError:  # no law: `plan` says why
        return budgets[0]
    for budget in budgets:
        try:
            plan(law, table, budget)
        except NoRecommendation:
            continue
        except UserError:
            break
        return budget
    return budgets[0]


def status(
    folder: Folder,
    runs: Annotated[bool, typer.Option("--runs", help="list every run: base, adapter, state, loss, folder")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="follow it in this terminal until nobody trains there")] = False,
    as_json: Json = False,
) -> None:
    """How a study or a run stands: its runs by state, who trains it, the time that is left."""
    from isolora.study.status import run_table
    from isolora.study.status import status as look

    if watch:
        from isolora.watch.terminal import watch as follow

        follow(folder)
    found = look(folder)
    result = found.to_json() | ({"each": [vars(line) for line in found.each]} if runs else {})
    answer(result, f"{found}\n\n{run_table(found.each)}" if runs else str(found), as_json)


def stop(folder: Folder, as_json: Json = False) -> None:
    """Ask whoever trains in a folder to keep a checkpoint and end; the same command goes on from there."""
    from isolora.study.status import stop as ask

    ended = ask(folder)
    words = f"{folder}: stopped" if ended else f"{folder}: asked to stop; it ends after the step that it is taking"
    answer({"folder": str(folder), "stopped": ended}, words, as_json)


def dashboard(
    folder: Folder,
    port: Annotated[int, typer.Option(min=0, max=65535, help="of this machine; 0 takes a free one")] = 8321,
    as_json: Json = False,
) -> None:
    """Follow a study on a page of this machine: how it stands, and its report, made anew as points come in; until Ctrl-C."""
    from isolora.watch.dashboard import dashboard_server

    server = dashboard_server(folder, port)
    address = f"http://{server.server_address[0]!s}:{server.server_port}/"
    answer({"address": address}, f"dashboard of {folder}: {address} (Ctrl-C ends it)", as_json)
    sys.stdout.flush()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


_SUGGESTED = (2, 3, 4, 8)
"""Times the largest run's FLOPs."""
_QUICK_BOOTSTRAP = 200


VERBS = (demo, study, status, stop, dashboard)
