"""Verbs on whole studies: demo, study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from isolora.cli.answer import Json, answer


def demo(
    out: Annotated[Path, typer.Option(help="the folder of the study, its report and its adapter")] = Path("demo-out"),
    seed: Annotated[int, typer.Option(help="seed of adapters, data order and the texts drawn")] = 0,
    as_json: Json = False,
) -> None:
    """The whole story on packaged models and data: study, law, recommendation, and the proof that it held."""
    from isolora.study import demo as run_demo

    story = run_demo(out, seed=seed, quiet=as_json)
    answer(story.to_json(), str(story), as_json)


def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="the study: base, and grid or search")],
    out: Annotated[Path | None, typer.Option(help="the study's folder; runs/NAME when absent")] = None,
    executor: Annotated[str, typer.Option(help="where stacks are trained; see `isolora list executors`")] = "local",
    workers: Annotated[int, typer.Option(min=1, help="processes that train stacks side by side")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="price the study and train nothing")] = False,
    as_json: Json = False,
) -> None:
    """Train a grid of runs in stacks, or search for the best values; a second call does only what is missing."""
    from isolora.config import load_study
    from isolora.study import run_study, searched

    config = load_study(file)
    if dry_run:
        from isolora.study.price import price_study

        price = price_study(config, workers=workers)
        answer(price.to_json(), str(price), as_json)
        return
    folder = out or Path("runs") / config.name
    store = run_study(config, folder, executor, workers, quiet=as_json)
    states = list(store.states().values())
    counts = {state: states.count(state) for state in sorted(set(states))}
    result: dict[str, Any] = {"folder": str(folder), "runs": len(states), "states": counts, "points": len(store.points())}
    words = (
        f"{folder}: {len(states)} runs ({', '.join(f'{n} {state}' for state, n in counts.items())}), {result['points']} points"
    )
    if config.search:
        found = searched(config, store)
        result, words = {**result, "search": found.to_json()}, f"{words}\n{found}"
    answer(result, words, as_json)


VERBS = (demo, study)
