"""Runs that are to be trained together, where, and in how much memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from isolora.config import RunConfig, content_hash, parse
from isolora.runs.micro_batches import accumulation
from isolora.runs.workspace import Workspace
from isolora.store import Point, Store
from isolora.training.ranks import ALONE, Ranks
from isolora.training.refill import Queue

CHECKPOINTS = "checkpoints"
SMALLEST_STACKED, SMALLEST_ALONE = 4, 64
"""How many times smaller micro-batches may get before a stack is split, or a run alone is given up."""

ShouldPrune = Callable[[Point], bool | str]
"""Asked after every evaluation, in the order of the runs; a run that it says yes to, or why, ends there as PRUNED."""


def never_prune(point: Point) -> bool:
    return False


@dataclass(frozen=True)
class StackJob:
    """Runs to train together. shrunk: by how much micro-batches are smaller than the runs ask for, memory being short; queue: of
    those that take the places of runs that have ended."""

    configs: tuple[RunConfig, ...]
    names: tuple[str, ...]
    store: Store
    stage: str
    quiet: bool
    should_prune: ShouldPrune
    workspace: Workspace
    ranks: Ranks = ALONE
    shrunk: int = 1
    queue: Queue | None = None

    @property
    def folder(self) -> Path:
        named = self.queue.name if self.queue else content_hash(list(self.names))
        return self.store.folder / CHECKPOINTS / named

    def members(self) -> list[str]:
        """Identities of all runs that have been in the stack."""
        return [*self.names, *(self.queue.joined if self.queue else ())]

    def of_members(self, names: Sequence[str]) -> StackJob:
        """The same job with other runs of the store."""
        written = {row["run"]: row["config"] for row in self.store.runs()}
        return replace(self, names=tuple(names), configs=tuple(parse(RunConfig, json.loads(written[name])) for name in names))

    @property
    def keeps_checkpoints(self) -> bool:
        return any(config.training.keep_checkpoints for config in self.configs)

    def part(self, which: Sequence[int]) -> StackJob:
        return replace(self, configs=tuple(self.configs[k] for k in which), names=tuple(self.names[k] for k in which))

    def smaller(self) -> list[StackJob]:
        """The same runs in less memory: in micro-batches of half the size, then in two stacks; empty where nothing is left. None
        joins them."""
        count = len(self.configs)
        if self.shrunk < (SMALLEST_ALONE if count == 1 else SMALLEST_STACKED):
            return [replace(self, shrunk=2 * self.shrunk, queue=None)]
        if count == 1:
            return []
        return [replace(self.part(half), queue=None) for half in (range(count // 2), range(count // 2, count))]

    def as_trained(self) -> list[RunConfig]:
        """The configurations with as many micro-batches to a step as memory asks for; batches and steps stay as they were."""
        if self.shrunk == 1:
            return list(self.configs)
        return [_with_accumulation(config, self.shrunk * accumulation(config.training)) for config in self.configs]


def _with_accumulation(config: RunConfig, count: int) -> RunConfig:
    return config.model_copy(update={"training": config.training.model_copy(update={"accumulation": count})})
