"""Verbs of an adapter's life: generate, chat, classify, export, certify."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isolora.cli.answer import Json, answer
from isolora.cli.standard_streams import check_text
from isolora.errors import ConfigError, UserError
from isolora.json_types import JsonObject

if TYPE_CHECKING:
    from isolora.adapters.chat import MultiAdapterChat

Folder = Annotated[Path, typer.Argument(metavar="ADAPTER_DIR", help="an adapter's or a run's folder")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0: greedy; higher: more varied")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="seed of the sampling")]


def generate(
    folder: Folder,
    prompt: Annotated[str, typer.Option(help="the text to continue, or to answer where the model has an encoder")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest continuation")] = 80,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write text with a saved adapter."""
    from isolora.adapters import load

    adapter = load(folder)
    text = adapter.generate(prompt, max_new_tokens, temperature, seed)
    answered = adapter.base.model.config.is_encoder_decoder or adapter.task.columns  # plain texts go on with their prompt
    shown = text.strip() if answered else prompt + text
    answer({"prompt": prompt, "text": text}, shown, as_json)


def chat(
    folder: Folder,
    also: Annotated[
        list[str] | None, typer.Option(help="NAME=DIR: another adapter of this base, spoken to after /use NAME")
    ] = None,
    system: Annotated[str, typer.Option(help="what the model is told before the first turn")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest answer")] = 200,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Talk with a saved adapter, turn by turn, until /exit or the end of the input; several take turns after /use NAME."""
    from isolora.adapters import AdapterPool, load
    from isolora.adapters.chat import Chat, MultiAdapterChat, adapter_folders
    from isolora.adapters.generation import Sampling

    how = Sampling(max_new_tokens, temperature, seed)
    talk = MultiAdapterChat(AdapterPool(adapter_folders(folder, also)), system, how) if also else Chat(load(folder), system, how)
    for said in _asked():
        if said.startswith("/use ") and isinstance(talk, MultiAdapterChat):
            _swap(talk, said.removeprefix("/use ").strip())
            continue
        talk.reply(said, (lambda piece: None) if as_json else (lambda piece: print(piece, end="", flush=True)))
        if not as_json:
            print()
    if as_json:
        answer({"turns": talk.turns}, "", as_json)


def classify(
    folder: Folder,
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="the texts, each in quotation marks")] = None,
    pair: Annotated[str | None, typer.Option(help="the second text, where the task reads pairs")] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="a CSV, TSV, JSON Lines, Parquet or text file with the columns of training; labels may be missing"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Classes, numbers or entities of new texts by a saved classifier, with probabilities."""
    from isolora.adapters import load
    from isolora.adapters.classify import classify as ask
    from isolora.adapters.classify import unlabelled_rows

    if (file is None) == (not texts) or (pair is not None and len(texts or ()) != 1):
        raise ConfigError("classify: give texts or --file, one of the two; --pair goes with one text")
    adapter = load(folder)
    given: list[JsonObject] = [{"text": text, **({} if pair is None else {"text_pair": pair})} for text in texts or ()]
    rows, origins = (given, []) if file is None else unlabelled_rows(adapter, file)
    found = [{**row, **said} for row, said in zip(rows, ask(adapter, rows, origins), strict=True)]
    if cut := [row for row in found if row["cut"]]:
        limit = "data.max_length, or what the model takes"
        print(f"isolora: mind: {len(cut)} of {len(found)} texts are longer than the model reads ({limit}): cut", file=sys.stderr)
    answer({"texts": found}, "\n".join(map(_classified_words, found)), as_json)


def _classified_words(found: JsonObject) -> str:
    """One line a text, of entities one line each: a table that other programs read, with tabs."""
    text = " ".join(str(found.get("text") or " ".join(found.get("words", ()))).split())
    if "entities" in found:
        entities = [f"{each['type']}\t{each['probability']:.3f}\t{each['text']}" for each in found["entities"]]
        return "\n".join(entities or [f"O\t\t{text}"])
    if "value" in found:
        return f"{found['value']:.5g}\t{text}"
    return f"{found['label']}\t{found['probability']:.3f}\t{text}"


def _swap(talk: MultiAdapterChat, name: str) -> None:
    """A name mistyped in the middle of a conversation does not end it."""
    try:
        talk.use(name)
    except UserError as error:
        print(f"isolora: {error}", file=sys.stderr)


def _asked() -> Iterator[str]:
    """What a person types, or a file that is piped in holds, line by line."""
    mark = "> " if sys.stdin.isatty() else ""
    for number in count(1):
        print(mark, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        check_text(line.strip(), f"line {number} of the input")
        if not line or line.strip() == "/exit":
            return
        if line.strip():
            yield line.strip()


def export(
    folder: Folder,
    to: Annotated[str, typer.Option(help="merged: a plain Hugging Face folder; peft: the adapter in PEFT's format")],
    out: Annotated[Path, typer.Option(help="the folder to write; must be empty or absent")],
    checkpoint: Annotated[int | None, typer.Option(help="the step of a run's checkpoint, instead of its end")] = None,
    run: Annotated[str | None, typer.Option(help="which run, where the checkpoint holds several")] = None,
    as_json: Json = False,
) -> None:
    """Hand an adapter over to other tools."""
    from isolora.training.checkpoint_export import export as hand_over

    done = hand_over(folder, to, out, checkpoint, run)
    for warning in done.warnings:
        print(f"isolora: mind: {warning}", file=sys.stderr)
    answer({"folder": str(done.folder), "format": to, "warnings": list(done.warnings)}, f"{to}: {done.folder}", as_json)


def certify(folder: Folder, as_json: Json = False) -> None:
    """Check a saved adapter's round trip, each property by name; exit status 1 when any check fails."""
    from isolora.certify import certify as run_checks

    certificate = run_checks(folder)
    answer(certificate.to_json(), str(certificate), as_json)
    raise typer.Exit(0 if certificate.passed else 1)


VERBS = (generate, chat, classify, export, certify)
