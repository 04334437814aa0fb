"""The adapter under examination, and checks of what lies in its folder: whole, as written, finite, pointing nowhere else."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from isolora import adapters, models
from isolora.adapters import Adapter
from isolora.adapters import record as records
from isolora.config import RunConfig
from isolora.json_types import JsonObject
from isolora.methods.adapter_files import all_tensors, leads_out, read_json
from isolora.training.checkpoint import sha256

Verdict = tuple[bool, str]
TENSOR_NAME = re.compile(r"[\w-]+(\.[\w-]+)*")
ELSEWHERE = re.compile(r"/|\\\\|[A-Za-z]:[/\\]|~|(.*/)?\.\.(/.*)?$", re.DOTALL)
"""Texts that begin like an absolute path, or climb. A pattern over module names may well begin with one backslash."""
PATHS = ("base_model_name_or_path",)
"""Fields of an adapter's configuration that name a base, which may be a folder elsewhere."""


class NotApplicableError(Exception):
    """A property that adapters of this kind do not have; its text says why."""


@dataclass(frozen=True)
class Subject:
    """An adapter's own folder, and what is loaded from it once for several checks."""

    place: Path

    @cached_property
    def written(self) -> tuple[RunConfig, JsonObject]:
        return adapters.read_record(self.place)

    @property
    def config(self) -> RunConfig:
        return self.written[0]

    @property
    def record(self) -> JsonObject:
        return self.written[1]

    @cached_property
    def adapter(self) -> Adapter:
        return adapters.load(self.place)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the adapter's files, by name."""
        return all_tensors(self.place)


def record(subject: Subject) -> Verdict:
    """The record is the one that training wrote: settings, loss, costs, hashes."""
    written, found = subject.record.get("digest"), records.digest(subject.record)
    return written == found, f"digest {found}" + ("" if written == found else f", written {written}")


def hashes(subject: Subject) -> Verdict:
    """The adapter's files are those that training wrote, and no others."""
    found = {path.name: sha256(path) for path in records.files(subject.place)}
    written: dict[str, str] = subject.record["files"]  # its names are compared, never opened
    changed = sorted(name for name in found.keys() | written.keys() if found.get(name) != written.get(name))
    return bool(found) and not changed, f"changed: {', '.join(changed)}" if changed else f"{len(found)} files as written"


def nothing_outside(subject: Subject) -> Verdict:
    """No name of a tensor, a file or a setting leads out of the folder, and no link does."""
    odd = next(_leading_out(subject), None)
    return odd is None, "nothing leads out of the folder" if odd is None else odd


def _leading_out(subject: Subject) -> Iterator[str]:
    for path in sorted(subject.place.rglob("*")):
        if leads_out(path):
            yield f"link {path.name} leads to {path.resolve()}"
    for name in subject.record.get("files", {}):
        if Path(name).name != name:
            yield f"file name {name!r}"
    for name in subject.tensors:
        if not TENSOR_NAME.fullmatch(name):
            yield f"tensor name {name!r}"
    for path in sorted(subject.place.glob("adapter_*.json")):
        for text in _texts(read_json(path)):
            if ELSEWHERE.match(text):
                yield f"{path.name} names {text!r}"


def _texts(value: object) -> Iterator[str]:
    """All texts in JSON, keys included, but those that are allowed to be paths."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            if key not in PATHS:
                yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def finite(subject: Subject) -> Verdict:
    """No tensor holds NaN or infinity."""
    broken = [name for name, tensor in subject.tensors.items() if not torch.isfinite(tensor).all()]
    return not broken, f"not finite: {broken[0]}" if broken else f"{len(subject.tensors)} tensors finite"


def tensors(subject: Subject) -> Verdict:
    """Loaded and saved again, the adapter has the same tensors, bit for bit: none missing, none that nobody reads."""
    with tempfile.TemporaryDirectory() as folder:
        subject.adapter.attached.save(0, Path(folder))
        again = all_tensors(Path(folder))
    found = subject.tensors
    for odd, what in ((again.keys() - found.keys(), "missing"), (found.keys() - again.keys(), "not of this adapter")):
        if odd:
            return False, f"{what}: {', '.join(sorted(odd))}"
    changed = [name for name, tensor in found.items() if not _same_bits(tensor, again[name])]
    return not changed, f"changed by loading: {changed[0]}" if changed else f"{len(found)} tensors loaded as saved"


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.view(torch.uint8) if a.dim() else a, b.view(torch.uint8) if b.dim() else b)


def base(subject: Subject) -> Verdict:
    """The base model's weights are those that the adapter was trained on."""
    found, trained_on = models.fingerprint(subject.config.model), subject.record["base"]
    return found == trained_on, f"{found}" + ("" if found == trained_on else f", trained on {trained_on}")
