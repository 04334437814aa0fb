"""From a run's configuration to what the loop needs: base model, task, training and held-out examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from isolora import data, models, registry
from isolora.config import DataConfig, RunConfig, TaskConfig, content_hash
from isolora.errors import ConfigError, DataError
from isolora.models import Base
from isolora.tasks._base import Examples, Task


@dataclass(frozen=True)
class Prepared:
    """documents: those that the held-out examples were made from."""

    base: Base
    task: Task
    train: Examples
    held_out: Examples
    documents: data.Documents


@lru_cache(maxsize=2)
def load_base(config: RunConfig, labels: tuple[str, ...], fingerprint: str) -> Base:
    """A base with its weights; the last two are kept, since a study goes through its models one after the other.

    config: as `models.weights_of` gives it; fingerprint: of the weights, so that weights changed on the disk are read again.
    """
    return models.load(config, models.bound_task(config, labels))


@lru_cache(maxsize=4)
def load_documents(config: DataConfig, task: TaskConfig) -> data.Splits:
    return data.load(config, task.name, registry.load("task", task.name).columns)


def prepare(config: RunConfig) -> Prepared:
    """Load and tokenise what a run trains on and is measured on. Raises ConfigError or DataError in one line."""
    task = task_of(config)
    base = load_base(models.weights_of(config), task.labels, models.fingerprint(config.model))
    train, held_out = examples_of(config, task, base.tokenizer, base.max_length)
    return Prepared(base, task, train, held_out, held_out_documents(config))


def task_of(config: RunConfig) -> Task:
    """The run's task with its settings and the classes of its training documents."""
    splits = load_documents(config.data, config.task)
    return models.bound_task(config, models.bound_task(config).find_labels(splits.train))


def held_out_documents(config: RunConfig) -> data.Documents:
    documents: data.Documents = getattr(load_documents(config.data, config.task), config.data.eval_split)
    return documents


def examples_of(config: RunConfig, task: Task, tokenizer: Any, positions: int) -> tuple[Examples, Examples]:
    """Training and held-out examples; `positions` is the longest sequence that the model takes."""
    max_length = config.data.max_length or positions
    if max_length > positions:
        raise ConfigError(f"data.max_length: {max_length} exceeds the model's {positions} positions")
    parts = (load_documents(config.data, config.task).train, held_out_documents(config))
    train, held_out = (_learnable(_examples(task, part, tokenizer, max_length)) for part in parts)
    if not len(train) or not len(held_out):
        raise DataError(
            f"data.source: {config.data.source} leaves nothing to learn or to measure (texts are shorter than two tokens)"
        )
    return train, held_out


def _examples(task: Task, documents: data.Documents, tokenizer: Any, max_length: int) -> Examples:
    decided_by: Sequence[Any] = (task.name, task.settings.model_dump(), task.labels, documents.fingerprint, max_length)
    return data.cached(lambda: task.examples(documents, tokenizer, max_length), tokenizer, decided_by)


def _learnable(examples: Examples) -> Examples:
    """Leave out examples without a single label: they would divide by zero and teach nothing."""
    return examples.subset(np.flatnonzero(examples.label_counts))


def run_identity(config: RunConfig) -> str:
    """Content hash of a run: its configuration, the base's weights and the documents."""
    splits = load_documents(config.data, config.task)
    parts = (splits.train.fingerprint, splits.validation.fingerprint, splits.test.fingerprint)
    return content_hash([config.identity(), models.fingerprint(config.model), parts])
