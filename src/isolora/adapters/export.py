"""An adapter handed over to other programs: as PEFT's two files, or merged into a plain Hugging Face folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isolora import adapters, registry
from isolora.adapters import compatibility as readers
from isolora.adapters.card import CARD, card
from isolora.adapters.record import beyond_peft, files
from isolora.errors import ConfigError, DataError, unknown

EXPORTS = ("merged", "peft")


@dataclass(frozen=True)
class Export:
    """The folder that was written, and what those who read it should know."""

    folder: Path
    format: str
    warnings: tuple[str, ...]


def export_adapter(folder: Path | str, to: str, out: Path | str) -> Export:
    """Write a finished adapter with its model card.

    Raises ConfigError, naming the way that works, where the method does not merge or PEFT does not know it.
    """
    out = Path(out)
    if to not in EXPORTS:
        raise ConfigError(unknown("export", to, EXPORTS))
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"--out: {out} exists and is not an empty folder")
    return _export(adapters.find(Path(folder)), to, out)


def _export(place: Path, to: str, out: Path) -> Export:
    config, record = adapters.read_record(place)
    name = config.method.name
    mergeable, beyond = registry.load("method", name).mergeable, beyond_peft(place)
    ways = [f"--to {way}" for way, works in (("merged", mergeable), ("peft", not beyond)) if works]
    instead = f"; use {ways[0]}" if ways else "; share the adapter's own folder, which isolora.load reads"
    if to == "merged" and not mergeable:
        raise ConfigError(f"--to merged: adapters of method {name} cannot be folded into the base's weights{instead}")
    if to == "peft" and beyond:
        raise ConfigError(f"--to peft: PEFT's format has no place for {beyond}{instead}")
    about, remarks = _card(record, to), []
    if to == "merged":
        _write_merged(place, out)
    else:
        _write_peft(place, out)
        remarks = _remarks(place, record, mergeable)
    (out / CARD).write_text(about, encoding="utf-8")
    return Export(out, to, tuple(remarks))


def _card(record: dict[str, Any], to: str) -> str:
    try:
        return card(record, to)
    except (AttributeError, KeyError, TypeError, ValueError) as failure:
        raise DataError(f"{adapters.RECORD}: not as training writes it ({type(failure).__name__}: {failure})") from None


def _write_peft(place: Path, out: Path) -> None:
    adapters.load(place)  # what does not load is not handed over
    out.mkdir(parents=True, exist_ok=True)
    for path in (*files(place), place / adapters.RECORD):
        shutil.copy2(path, out / path.name)


def _write_merged(place: Path, out: Path) -> None:
    adapter = adapters.load(place, full_precision=True)
    adapter.attached.merge(0).save_pretrained(out)
    adapter.base.tokenizer.save_pretrained(out)


def _remarks(place: Path, record: dict[str, Any], mergeable: bool) -> list[str]:
    """What PEFT, vLLM or llama.cpp cannot do with these files."""
    found = readers.warnings(place)
    if found and mergeable:
        found[-1] += "; export --to merged works there"
    name, origin = record["config"]["model"], record.get("origins", {}).get("model")
    if origin == "packaged":
        found.append(f"PEFT cannot find the base {name} by its name: give it the folder isolora.models.locate({name!r})")
    if origin == "folder":
        found.append(f"the base is a local folder ({name}): whoever loads this needs its files")
    return found
