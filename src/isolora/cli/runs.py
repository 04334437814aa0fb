"""Verbs on single runs: train, eval, forget."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from isolora.cli.answer import Json, answer, lines
from isolora.json_types import JsonObject

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
    from isolora.cost.crosscheck import comparison
    from isolora.training import train as train_run

    result = train_run(load_run(*split_words(words)), out, must_exist=resume)
    if not result:  # another process of the same launch answers
        return
    flat = {key: value for key, value in result.items() if not isinstance(value, dict)} | result.get("metrics", {})
    compared = [comparison(name, values) for name, values in result.get("checks", {}).items()]
    answer(result, "\n".join([lines(flat), *compared, *trained_too_long(result)]), as_json)


def trained_too_long(result: JsonObject) -> list[str]:
    """Where an earlier evaluation was better than the last one: how to have that adapter."""
    from isolora.training.checkpoint_export import checkpoints

    best = result.get("best")
    if best is None:
        return []
    found = f"mind: the held-out loss was lowest at step {best['step']} ({best['tokens']:,} tokens): {best['loss']:.5g}"
    if best["step"] in checkpoints(Path(result["folder"])):
        way = f"isolora export {result['folder']} --to peft --out best --checkpoint {best['step']}"
    else:
        way = f"train again with training.tokens={best['tokens']}, or keep checkpoints with training.keep_checkpoints=true"
    return [f"{found}, not at the end: {way}"]


def eval_(
    folder: Annotated[Path, typer.Argument(help="a run's or an adapter's folder")],
    split: Annotated[str | None, typer.Option(help="validation or test; that of the training when absent")] = None,
    bare: Annotated[bool, typer.Option("--bare", help="measure the base model without the adapter")] = False,
    harness: Annotated[
        str | None, typer.Option(help="tasks of lm-evaluation-harness instead, with commas: packaged, of --include, or its own")
    ] = None,
    include: Annotated[Path | None, typer.Option(help="folder of YAML files with more tasks for --harness")] = None,
    lighteval: Annotated[
        str | None, typer.Option(help="tasks of LightEval instead, by its own command; ISOLORA_LIGHTEVAL names it")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="documents of each task of --harness or --lighteval")] = None,
    as_json: Json = False,
) -> None:
    """Recompute a saved adapter's held-out loss and scores from its folder alone, or measure it on tasks of a harness."""
    from isolora import evaluation

    if harness or lighteval:
        result: JsonObject = {}
        if harness:
            result["harness"] = evaluation.harness(folder, harness.split(","), include, limit)
        if lighteval:
            result["lighteval"] = evaluation.lighteval(folder, lighteval, limit)
        answer(result, "\n".join(benchmarked(task, found) for by in result.values() for task, found in by.items()), as_json)
        return
    result = evaluation.evaluate(folder, split, bare=bare)
    answer(result, measures_in_words(result), as_json)


def benchmarked(task: str, metrics: dict[str, float]) -> str:
    """A task's metrics, with their standard errors behind them."""
    shown = {name: f"{value:.4f}" for name, value in metrics.items() if not name.endswith("_stderr")}
    errors = {name: metrics.get(f"{name}_stderr", math.nan) for name in shown}
    rows = {name: text if math.isnan(errors[name]) else f"{text} ± {errors[name]:.4f}" for name, text in shown.items()}
    return f"{task}\n{lines({f'  {name}': text for name, text in rows.items()})}"


def measures_in_words(result: JsonObject) -> str:
    """Losses and measures, each with its 95 % interval where it has one."""
    flat = {name: value for name, value in result.items() if not isinstance(value, dict)}
    for name, value in ({"loss": result["loss"]} | result["metrics"]).items():
        low, high = result["intervals"].get(name, (math.nan, math.nan))
        flat[name] = f"{value:.5g}" if math.isnan(low) else f"{value:.5g}  [{low:.5g}, {high:.5g}]"
    return lines(flat)


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
        f" ({found['texts']:,} texts)"
        for name, found in result["sources"].items()
    ]
    rows += [f"rows left out: {result['rows_left_out']:,}"] if result["rows_left_out"] else []
    answer(result, "\n".join(rows), as_json)


def split_words(words: list[str] | None) -> tuple[Path | None, list[str]]:
    """The YAML file, if the first word is one, and the key=value words."""
    given = list(words or [])
    if given and "=" not in given[0]:
        return Path(given[0]), given[1:]
    return None, given


VERBS = (train, eval_, forget)
