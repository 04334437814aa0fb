"""From a run's configuration to what the loop needs: base model, task, training and held-out examples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from isolora import data, models, registry
from isolora.config import DataConfig, RunConfig, content_hash
from isolora.errors import ConfigError, DataError
from isolora.models import Base
from isolora.tasks._base import Examples, Task


@dataclass(frozen=True)
class Prepared:
    base: Base
    task: Task
    train: Examples
    held_out: Examples


@lru_cache(maxsize=2)
def load_base(model: str, task: str, trust_remote_code: bool, fingerprint: str) -> Base:
    """A base with its weights; the last two are kept, since a study goes through its models one after the other.

    fingerprint: of the weights, so that those that have changed on the disk are read again.
    """
    config = RunConfig(model=model, task=task, trust_remote_code=trust_remote_code)
    return models.load(config, registry.load("task", task).auto_class)


@lru_cache(maxsize=4)
def load_documents(config: DataConfig) -> data.Splits:
    return data.load(config)


def prepare(config: RunConfig) -> Prepared:
    """Load and tokenise what a run trains on and is measured on. Raises ConfigError or DataError in one line."""
    base = load_base(config.model, config.task, config.trust_remote_code, models.fingerprint(config.model))
    train, held_out = examples_of(config, base.tokenizer, base.max_length)
    return Prepared(base, registry.load("task", config.task), train, held_out)


def examples_of(config: RunConfig, tokenizer: Any, positions: int) -> tuple[Examples, Examples]:
    """Training and held-out examples; `positions` is the longest sequence that the model takes."""
    task: Task = registry.load("task", config.task)
    max_length = config.data.max_length or positions
    if max_length > positions:
        raise ConfigError(f"data.max_length: {max_length} exceeds the model's {positions} positions")
    splits = load_documents(config.data)
    parts = (splits.train, getattr(splits, config.data.eval_split))
    tokens = [data.tokenise(part, tokenizer, max_length) for part in parts]
    train, held_out = (_learnable(task.examples(Examples(t.ids, t.ids, t.starts))) for t in tokens)
    if not len(train) or not len(held_out):
        raise DataError(
            f"data.source: {config.data.source} leaves nothing to learn or to measure (texts are shorter than two tokens)"
        )
    return train, held_out


def _learnable(examples: Examples) -> Examples:
    """Leave out examples without a single label: they would divide by zero and teach nothing."""
    return examples.subset(np.flatnonzero(examples.label_counts))


def run_identity(config: RunConfig) -> str:
    """Content hash of a run: its configuration, the base's weights and the documents."""
    splits = load_documents(config.data)
    parts = (splits.train.fingerprint, splits.validation.fingerprint, splits.test.fingerprint)
    return content_hash([config.identity(), models.fingerprint(config.model), parts])
