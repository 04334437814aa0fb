"""From a run's configuration to what the loop needs: base model, task, training and held-out examples."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

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
def load_base(model: str, task: str, trust_remote_code: bool) -> Base:
    """A base with its weights; the last two are kept, since a study goes through its models one after the other."""
    config = RunConfig(model=model, task=task, trust_remote_code=trust_remote_code)
    return models.load(config, registry.load("task", task).auto_class)


@lru_cache(maxsize=4)
def load_documents(config: DataConfig) -> data.Splits:
    return data.load(config)


def prepare(config: RunConfig) -> Prepared:
    """Load and tokenise what a run trains on and is measured on. Raises ConfigError or DataError in one line."""
    task: Task = registry.load("task", config.task)
    base = load_base(config.model, config.task, config.trust_remote_code)
    splits = load_documents(config.data)
    max_length = config.data.max_length or base.max_length
    if max_length > base.max_length:
        raise ConfigError(f"data.max_length: {max_length} exceeds the model's {base.max_length} positions")
    held_out = splits.validation if config.data.eval_split == "validation" else splits.test
    train_tokens, held_out_tokens = (data.tokenise(part, base.tokenizer, max_length) for part in (splits.train, held_out))
    train, measured = (task.examples(Examples(t.ids, t.ids, t.starts)) for t in (train_tokens, held_out_tokens))
    if not train.label_counts.sum() or not measured.label_counts.sum():
        raise DataError(
            f"data.source: {config.data.source} leaves nothing to learn or to measure (every text is shorter than two tokens)"
        )
    return Prepared(base, task, _learnable(train), _learnable(measured))


def _learnable(examples: Examples) -> Examples:
    """Leave out examples without a single label: they would divide by zero and teach nothing."""
    return examples.subset(np.flatnonzero(examples.label_counts))


def run_identity(config: RunConfig) -> str:
    """Content hash of a run: its configuration, the base's weights and the documents."""
    splits = load_documents(config.data)
    parts = (splits.train.fingerprint, splits.validation.fingerprint, splits.test.fingerprint)
    return content_hash([config.model_dump(), models.fingerprint(config.model), parts])
