"""An adapter handed over to other programs: as PEFT's two files, or merged into a plain Hugging Face folder.

What was written is loaded by those programs and compared with the live adapter. It is written aside and renamed at the end, so
that a folder that fails is not kept.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from torch import Tensor

from isolora import adapters, models, registry
from isolora.adapters import compatibility, plain, round_trip
from isolora.adapters.card import CARD, card
from isolora.adapters.record import beyond_peft, files
from isolora.adapters.round_trip import largest_difference
from isolora.adapters.saved_adapter import Adapter
from isolora.errors import ConfigError, DataError, in_brief, unknown
from isolora.json_types import JsonObject
from isolora.methods.adapter_files import all_tensors
from isolora.paths import expanded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EXPORTS = ("merged", "peft")


@dataclass(frozen=True)
class Export:
    """The folder that was written, and what those who read it should know."""

    folder: Path
    format: str
    warnings: tuple[str, ...]


def export_adapter(folder: Path | str, to: str, out: Path | str) -> Export:
    """Write a finished adapter with its model card, and check it as those who read it will.

    Raises ConfigError, naming the way that works, where the method does not merge or PEFT does not know it, and where `out`
    cannot be written; DataError where weights are not finite or the written folder computes something else.
    """
    out = expanded(out)
    if to not in EXPORTS:
        raise ConfigError(unknown("export", to, EXPORTS))
    place = adapters.find_adapter(Path(folder))
    mergeable, about = _allowed(place, to)
    if broken := not_finite(all_tensors(place)):
        raise DataError(f"{place}: {broken} is not finite; it is not exported")
    with written_aside(out) as aside:
        remarks = _write_merged(place, aside) if to == "merged" else _write_peft(place, aside, mergeable)
        (aside / CARD).write_text(about, encoding="utf-8")
    return Export(out, to, tuple(remarks))


def _allowed(place: Path, to: str) -> tuple[bool, str]:
    """Whether the method merges, and the card's text. Raises ConfigError where this export is not defined for the adapter."""
    config, record = adapters.read_record(place)
    name = config.method.name
    mergeable, beyond = registry.load_plug_in("method", name).mergeable, beyond_peft(place)
    ways = [f"--to {way}" for way, works in (("merged", mergeable), ("peft", not beyond)) if works]
    instead = f"; use {ways[0]}" if ways else "; share the adapter's own folder, which isolora.load reads"
    if to == "merged" and not mergeable:
        raise ConfigError(f"--to merged: adapters of method {name} cannot be folded into the base's weights{instead}")
    if to == "peft" and beyond:
        raise ConfigError(f"--to peft: PEFT's format has no place for {beyond}{instead}")
    return mergeable, _card(record, to)


def _card(record: JsonObject, to: str) -> str:
    try:
        return card(record, to)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as failure:
        raise DataError(f"{adapters.RECORD}: not as training writes it ({type(failure).__name__}: {failure})") from None


@contextmanager
def written_aside(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write to, which takes its place at the end. Raises ConfigError where `out` is taken or cannot be
    written; whatever goes wrong, nothing stays."""
    if "\0" in str(out):
        raise ConfigError(f"--out: {str(out)!r} is no name of a folder")
    out = Path(os.path.realpath(out))
    aside, missing = out.parent / f".writing-{os.getpid()}", [folder for folder in out.parents if not folder.exists()]
    try:
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise ConfigError(f"--out: {out} exists and is not an empty folder")
        aside.mkdir(parents=True)
        yield aside
        aside.rename(out)
    except BaseException as failure:
        shutil.rmtree(aside, ignore_errors=True)
        for folder in filter(Path.is_dir, missing):
            folder.rmdir()
        if isinstance(failure, OSError | SafetensorError):
            reason = getattr(failure, "strerror", None) or in_brief(failure)
            raise ConfigError(f"--out: {out} cannot be written ({reason})") from None
        raise


def _write_peft(place: Path, aside: Path, mergeable: bool) -> list[str]:
    """The adapter's own files, once plain PEFT gives the live adapter's scores with them."""
    live = adapters.load(place, full_precision=True, device="cpu")
    ours, ids = round_trip.adapter_scores(live), round_trip.probe_on_device(live.base)
    for path in (*files(place), place / adapters.RECORD):
        shutil.copy(path, aside / path.name)
    del live
    with _elsewhere("--to peft: PEFT alone"):
        theirs = plain.plain_scores(plain.loaded(**round_trip.request(place), adapter=str(aside)), ids)
    _insist(ours, theirs, "--to peft: loaded by PEFT alone, the adapter")
    return _remarks(place, mergeable)


def _write_merged(place: Path, aside: Path) -> list[str]:
    """The base with the adapter folded in: computed in float32, written in the base's own precision."""
    live = adapters.load(place, full_precision=True, device="cpu")
    ours, ids = round_trip.adapter_scores(live), round_trip.probe_on_device(live.base)
    effect = largest_difference(ours, _bare_scores(live))
    merged = live.attached.merge(0)
    _insist(ours, plain.plain_scores(merged, ids), "--to merged: merged, the adapter")
    precision = models.own_precision(live.config)
    _cast(merged, precision)
    if broken := not_finite(dict(merged.named_parameters())):
        raise DataError(f"--to merged: {broken} is not finite in {_named(precision)}; it is not exported")
    merged.save_pretrained(aside)
    live.base.tokenizer.save_pretrained(aside)
    auto_class = live.task.auto_class(live.task.architecture)
    _cast(merged, torch.float32)
    rounded = plain.plain_scores(merged, ids)
    del merged, live
    with _elsewhere("--to merged: transformers alone"):
        again = plain.plain_scores(plain.loaded(str(aside), auto_class, {}), ids)
    _insist(rounded, again, "--to merged: loaded by transformers alone, the folder")
    return _about_precision(precision, largest_difference(ours, rounded), effect)


@contextmanager
def _elsewhere(who: str) -> Iterator[None]:
    """Within, another program's loader reads what was written; it may raise anything."""
    try:
        yield
    except Exception as failure:
        raise DataError(f"{who} cannot load it ({type(failure).__name__}: {in_brief(failure)}); nothing was written") from None


def _cast(model: PreTrainedModel, precision: torch.dtype) -> None:
    """Parameters alone: what the model computes for itself, such as rotary frequencies, keeps its precision."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(precision)


def _bare_scores(adapter: Adapter) -> Tensor:
    with adapter.attached.rows(()):
        return plain.plain_scores(adapter.attached.model, round_trip.probe_on_device(adapter.base))


def _about_precision(precision: torch.dtype, lost: float, effect: float) -> list[str]:
    """What rounding did, where the base is published in less than float32."""
    if precision == torch.float32:
        return []
    return [
        f"merged in float32, written in {_named(precision)} like the base: rounding moves logits by at most {lost:.2g};"
        f" the adapter moves them by {effect:.2g}"
    ]


def _named(precision: torch.dtype) -> str:
    return str(precision).removeprefix("torch.")


def not_finite(tensors: JsonObject) -> str:
    """The first tensor that holds NaN or infinity; empty where there is none."""
    return next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), "")


def _insist(ours: Tensor, theirs: Tensor, what: str) -> None:
    difference = largest_difference(ours, theirs)
    if difference > round_trip.tolerance(ours):
        raise DataError(f"{what} computes something else (logits differ by {difference:.2g}); nothing was written")


def _remarks(place: Path, mergeable: bool) -> list[str]:
    """What PEFT, vLLM or llama.cpp cannot do with these files."""
    found = compatibility.compatibility_warnings(place)
    if found and mergeable:
        found[-1] += "; export --to merged works there"
    _, record = adapters.read_record(place)
    name, origin = record["config"]["model"], record.get("origins", {}).get("model")
    if origin == "packaged":
        found.append(f"PEFT cannot find the base {name} by its name: give it the folder isolora.models.locate({name!r})")
    if origin == "folder":
        found.append(f"the base is a local folder ({name}): whoever loads this needs its files")
    return found
