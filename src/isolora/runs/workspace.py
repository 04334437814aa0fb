"""What the runs of one process share, each thing made once: documents, bases, ledgers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from isolora import models
from isolora.config import RunConfig, content_hash
from isolora.ledger import Ledger
from isolora.models import Base
from isolora.runs.document_loader import DocumentLoader, RunDocuments
from isolora.tasks.base import Task


class Bases:
    """Base models with their weights, keyed by the weights' fingerprint and by what the runs' tasks and methods ask of them.

    The last two are kept, since a study goes through its models one after the other. A base is lent to one user at a time, and
    comes back only from one that ended without an exception: after an interrupt nobody knows what is left on it.
    """

    def __init__(self, kept: int = 2) -> None:
        self.kept = kept
        self._free: dict[str, Base] = {}

    @contextmanager
    def borrow(self, config: RunConfig, task: Task) -> Iterator[Base]:
        shared = models.weights_of(config)
        key = content_hash([models.fingerprint(config.model), shared.identity(), task.labels])
        base = self._free.pop(key, None) or models.load_base(shared, models.bound_task(shared, task.labels))
        yield base
        self._free[key] = base
        while len(self._free) > self.kept:
            del self._free[next(iter(self._free))]


class Workspace:
    """Of a process's runs: documents, bases; ledgers and peak memory by content hash. Files that change on the disk are seen by
    the next workspace."""

    def __init__(self) -> None:
        self.documents = DocumentLoader()
        self.bases = Bases()
        self.ledgers: dict[str, Ledger] = {}
        self.memory_bytes: dict[str, int] = {}

    def identity(self, config: RunConfig) -> str:
        """A run's identity, by its documents."""
        return RunDocuments.load(config, self.documents).identity(config)
