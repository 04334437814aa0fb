"""Several adapters on one base model: loaded once, swapped by name, and mixed in a batch whose rows each use their own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isolora import registry
from isolora.adapters.generation import Sampling, Writer
from isolora.adapters.record import find_adapter, read_record, saved_task
from isolora.adapters.saved_adapter import Adapter, bare_base
from isolora.errors import ConfigError, unknown
from isolora.methods.adapter_files import WEIGHTS, saved_tensors
from isolora.methods.base import Span

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
SHARED = {"base": "base weights", "auto_class": "model class"}
"""What all adapters of a pool have in common, by its name in their records."""


class AdapterPool:
    """Adapters by name on one base. They share the base, the method, and where it is attached; ranks and heads may differ.

    Raises ConfigError, one line, where adapters cannot live together.
    """

    def __init__(self, folders: Mapping[str, Path | str]) -> None:
        if not folders:
            raise ConfigError("adapters: name at least one adapter's folder")
        for name in folders:
            if not NAME.fullmatch(name):
                raise ConfigError(f"adapters: name {name!r} is not of 1 to 64 letters, digits, _ or -")
        self.places = {name: find_adapter(Path(folder)) for name, folder in folders.items()}
        self.records = {name: read_record(place) for name, place in self.places.items()}
        self.tasks = {name: saved_task(place) for name, place in self.places.items()}
        first, *others = folders
        for other in others:
            self._check_pair(first, other)
        config, _ = self.records[first]
        self.base = bare_base(self.places[first])
        self.attached = self._attached(config.method.name, self.tasks[first].new_head)
        self.members = {name: member for member, name in enumerate(folders)}

    def _check_pair(self, first: str, other: str) -> None:
        (config, record), (other_config, other_record) = self.records[first], self.records[other]
        differing = [what for key, what in SHARED.items() if record.get(key) != other_record.get(key)]
        if config.method.name != other_config.method.name:
            differing.append("method")
        if differing:
            raise ConfigError(f"adapters: {other} differs from {first} in its {', '.join(differing)}")

    def _attached(self, method_name: str, heads: bool) -> Any:
        method = registry.load_plug_in("method", method_name)
        if not method.stackable:
            raise ConfigError(f"adapters: adapters of method {method_name} cannot live side by side; load them one at a time")
        settings = [method.settings(config.method.fields()) for config, _ in self.records.values()]
        for name, place in self.places.items():
            if others := [path.name for path in sorted(place.glob("*.safetensors")) if path.name != WEIGHTS]:
                raise ConfigError(f"adapters: {name} has {others[0]}, which changes the base for all; load it alone")
        attached = method.attach(self.base.model, settings, [0] * len(settings), heads)
        for member, place in enumerate(self.places.values()):
            tensors = saved_tensors(place)
            _fit_heads(attached.heads, member, tensors)
            attached.fill(member, tensors)
        attached.train(False)
        return attached

    def rows(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """Within the context, row i of the batch is computed with the adapter names[i]; a single name owns all rows."""
        members = [self._member(name) for name in names]
        if len(members) == 1:
            return self.attached.rows([(members[0], 0, -1)])  # type: ignore[no-any-return]
        if len({self._head_sizes(member) for member in set(members)}) > 1:
            raise ConfigError("adapters: heads of different sizes cannot share a batch; use one adapter at a time")
        return self.attached.rows(spans(members))  # type: ignore[no-any-return]

    def use(self, name: str) -> AbstractContextManager[None]:
        """Within the context the model is the base with this adapter: a swap, which moves no weights."""
        return self.rows([name])

    def adapter(self, name: str) -> Adapter:
        """One of the pool as an adapter of its own; what it computes is right within `use(name)`."""
        config, record = self.records[name]
        return Adapter(self.places[name], config, record, self.base, self.attached, self.tasks[name])

    def generate(self, prompts: Mapping[str, str], how: Sampling | None = None) -> dict[str, str]:
        """One batch in which every adapter named goes on with its own prompt."""
        writer = Writer(self.attached.model, self.base, self.base.max_length)
        with self.rows(list(prompts)):
            made = writer.texts([(self.tasks[name], prompt) for name, prompt in prompts.items()], how or Sampling())
        return dict(zip(prompts, made, strict=True))

    def _head_sizes(self, member: int) -> tuple[torch.Size, ...]:
        return tuple(parameter.shape for _, parameter in self.attached.heads.named(member))

    def _member(self, name: str) -> int:
        if name not in self.members:
            raise ConfigError(unknown("adapter", name, self.members))
        return self.members[name]


def spans(members: Iterable[int]) -> list[Span]:
    """Consecutive rows of equal members."""
    found: list[Span] = []
    for member, group in groupby(members):
        start = found[-1][2] if found else 0
        found.append((member, start, start + len(list(group))))
    return found


def _fit_heads(heads: Any, member: int, tensors: dict[str, Tensor]) -> None:
    """Give a member's heads the sizes that it was saved with: tasks differ in their number of classes."""
    saved = {key.removeprefix("base_model.model."): tensor for key, tensor in tensors.items()}
    for name, parameter in heads.named(member):
        if name in saved and saved[name].shape != parameter.shape:
            parameter.data = parameter.data.new_empty(saved[name].shape)
