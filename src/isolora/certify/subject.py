"""The adapter under examination: its folder, and what is loaded from it once for several checks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from isolora import adapters
from isolora.adapters import Adapter
from isolora.config import RunConfig
from isolora.json_types import JsonObject
from isolora.methods.adapter_files import all_tensors


class NotApplicableError(Exception):
    """A property that adapters of this kind do not have; its text says why."""


@dataclass(frozen=True)
class Subject:
    """An adapter's own folder."""

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
