"""Verbs of an adapter's life: generate, export, certify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isolora.cli.answer import Json, answer

Folder = Annotated[Path, typer.Argument(metavar="ADAPTER_DIR", help="an adapter's or a run's folder")]


def generate(
    folder: Folder,
    prompt: Annotated[str, typer.Option(help="the text to continue")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest continuation")] = 80,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: greedy; higher: more varied")] = 0.0,
    seed: Annotated[int, typer.Option(help="seed of the sampling")] = 0,
    as_json: Json = False,
) -> None:
    """Write text with a saved adapter."""
    from isolora.adapters import load

    text = load(folder).generate(prompt, max_new_tokens, temperature, seed)
    answer({"prompt": prompt, "text": text}, prompt + text, as_json)


def export(
    folder: Folder,
    to: Annotated[str, typer.Option(help="merged: a plain Hugging Face folder; peft: the adapter's two files")],
    out: Annotated[Path, typer.Option(help="the folder to write; must be empty or absent")],
    as_json: Json = False,
) -> None:
    """Hand an adapter over to other tools."""
    from isolora.adapters import export as export_adapter

    place = export_adapter(folder, to, out)
    answer({"folder": str(place), "format": to}, f"{to}: {place}", as_json)


def certify(folder: Folder, as_json: Json = False) -> None:
    """Check a saved adapter's round trip: hashes, PEFT, merge, score; exit status 1 when any check fails."""
    from isolora.certify import certify as run_checks

    checks = run_checks(folder)
    passed = all(check.passed for check in checks)
    words = "\n".join(f"{'ok    ' if check.passed else 'FAILED'}  {check.name:<7} {check.seen}" for check in checks)
    answer({"passed": passed, "checks": [vars(check) for check in checks]}, words, as_json)
    raise typer.Exit(0 if passed else 1)


VERBS = (generate, export, certify)
