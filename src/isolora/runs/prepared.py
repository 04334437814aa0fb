"""From a run's configuration to what the loop needs: base model, task, training and held-out examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from isolora import data, models, registry
from isolora.config import DataConfig, RunConfig, TaskConfig, content_hash, parse
from isolora.errors import ConfigError, DataError
from isolora.models import Base
from isolora.tasks.base import Examples, Task


@dataclass(frozen=True)
class HeldOut:
    """Examples that a task is scored on, and the documents that they were made from."""

    task: Task
    examples: Examples
    documents: data.Documents


@dataclass(frozen=True)
class Prepared:
    """documents: those that the held-out examples were made from; others: texts on which forgetting is measured, by source;
    left_out: origins of rows that could not be used, and why; mixed: what each source that is mixed in is scored on."""

    base: Base
    task: Task
    train: Examples
    held_out: Examples
    documents: data.Documents
    others: Mapping[str, Examples] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    mixed: Mapping[str, HeldOut] = field(default_factory=dict)


@lru_cache(maxsize=2)
def load_base(config: RunConfig, labels: tuple[str, ...], fingerprint: str) -> Base:
    """A base with its weights; the last two are kept, since a study goes through its models one after the other.

    config: as `models.weights_of` gives it; fingerprint: of the weights, so that weights changed on the disk are read again.
    """
    return models.load(config, models.bound_task(config, labels))


@lru_cache(maxsize=8)  # a mix has several
def load_documents(config: DataConfig, task: TaskConfig) -> data.Splits:
    plain: Task = registry.load("task", task.name)
    return data.load(config, plain.bound(plain.Settings(**task.fields())))


def prepare(config: RunConfig) -> Prepared:
    """Load and tokenise what a run trains on and is measured on. Raises ConfigError or DataError in one line."""
    task = task_of(config)
    base = load_base(models.weights_of(config), task.labels, models.fingerprint(config.model))
    train, held_out = examples_of(config, task, base.tokenizer, base.max_length)
    others = other_texts(config, task, base.tokenizer, base.max_length - virtual_tokens(config))
    mixed = mixed_held_out(config, task, base.tokenizer, base.max_length)
    return Prepared(base, task, train, held_out, held_out_documents(config), others, left_out(config), mixed)


def task_of(config: RunConfig) -> Task:
    """The run's task with its settings and the classes of its training documents."""
    splits = load_documents(config.data, config.task)
    return models.bound_task(config, models.bound_task(config).find_labels(splits.train))


def left_out(config: RunConfig) -> tuple[str, ...]:
    """Origins of all rows of a run's data that could not be used, and why."""
    parts = [load_documents(config.data, config.task).train, held_out_documents(config), *mixed_in(config)]
    return tuple(row for part in parts for row in part.left_out)


def held_out_documents(config: RunConfig) -> data.Documents:
    documents: data.Documents = getattr(load_documents(config.data, config.task), config.data.eval_split)
    return documents


def examples_of(config: RunConfig, task: Task, tokenizer: Any, positions: int) -> tuple[Examples, Examples]:
    """Training and held-out examples; `positions` is the longest sequence that the model takes."""
    max_length = longest(config, positions)
    main, held_out = (
        _learnable(_examples(task, part, tokenizer, max_length))
        for part in (load_documents(config.data, config.task).train, held_out_documents(config))
    )
    mixed = [
        _examples(models.bound_task(alone, task.labels), part, tokenizer, max_length)
        for alone, part in zip(mix_of(config).values(), mixed_in(config), strict=True)
    ]
    train = Examples.joined([main, *map(_learnable, mixed)])
    if not len(train) or not len(held_out):
        raise DataError(
            f"data.source: {config.data.source} leaves nothing to learn or to measure (texts are shorter than two tokens)"
        )
    return train, held_out


def longest(config: RunConfig, positions: int) -> int:
    """Tokens of the longest example. Raises ConfigError where the model has too few positions."""
    taken = virtual_tokens(config)
    max_length = config.data.max_length or positions - taken
    if max_length > positions - taken:
        besides = f" besides {taken} virtual tokens" if taken else ""
        raise ConfigError(f"data.max_length: {max_length} exceeds the model's {positions} positions{besides}")
    return max_length


def mix_of(config: RunConfig) -> dict[str, RunConfig]:
    """For each source that is mixed in, the run that would learn its share of the examples alone."""
    if not config.data.mix:
        return {}
    own = len(load_documents(config.data, config.task).train)
    kept = 1 - sum(part.share for part in config.data.mix)
    shared = config.data.model_dump(include={"seed", "on_error", "streaming", "eval_examples", "eval_split"})
    return {
        part.called: config.model_copy(
            update={
                "data": DataConfig(
                    source=part.source,
                    train_examples=max(1, round(own * part.share / kept)),
                    columns=part.columns,
                    text_field=part.text_field,
                    **shared,
                ),
                "task": parse(TaskConfig, config.task.model_dump() | part.task, where="data.mix"),
            }
        )
        for part in config.data.mix
    }


def mixed_in(config: RunConfig) -> list[data.Documents]:
    """Training documents of the other sources, as many as their shares ask for. Raises DataError where a source has too few."""
    if not config.data.mix:
        return []
    task = task_of(config)
    return [_of_classes(load_documents(alone.data, alone.task).train, alone, task) for alone in mix_of(config).values()]


def mixed_held_out(config: RunConfig, task: Task, tokenizer: Any, positions: int) -> dict[str, HeldOut]:
    """What each source that is mixed in is scored on. The held-out loss stays that of the main source."""
    found, max_length = {}, longest(config, positions)
    for name, alone in mix_of(config).items():
        documents, own = _of_classes(held_out_documents(alone), alone, task), models.bound_task(alone, task.labels)
        found[name] = HeldOut(own, _learnable(_examples(own, documents, tokenizer, max_length)), documents)
    return found


def _of_classes(documents: data.Documents, alone: RunConfig, task: Task) -> data.Documents:
    """Those whose labels are of the main source's classes."""
    return data.usable(documents, models.bound_task(alone, task.labels), alone.data.on_error == "skip")


def other_texts(config: RunConfig, task: Task, tokenizer: Any, max_length: int) -> dict[str, Examples]:
    """Held-out texts of the sources on which forgetting is measured. Raises ConfigError where the model has no language head."""
    if config.forgetting is None:
        return {}
    if task.auto_class(task.architecture) != "AutoModelForCausalLM":
        raise ConfigError(f"forgetting: measured by a decoder's loss on texts; the model of task {task.name} is none")
    plain: Task = registry.load("task", "causal-lm")
    found = {}
    for source in config.forgetting.sources:
        texts = DataConfig(source=source, eval_examples=config.forgetting.examples)
        documents = load_documents(texts, TaskConfig(name="causal-lm")).validation
        found[source] = _learnable(_examples(plain, documents, tokenizer, max_length))
    return found


def virtual_tokens(config: RunConfig) -> int:
    """Positions that every sequence loses to the run's method."""
    method = registry.load("method", config.method.name)
    taken: int = method.virtual_tokens(method.settings(config.method.fields()))
    return taken


def _examples(task: Task, documents: data.Documents, tokenizer: Any, max_length: int) -> Examples:
    # what the architecture decides
    form = (task.second, *(getattr(task.architecture, name, None) for name in ("model_type", "decoder_start_token_id")))
    decided_by: Sequence[Any] = (task.name, task.settings.model_dump(), task.labels, form, documents.fingerprint, max_length)
    return data.cached(lambda: task.examples(documents, tokenizer, max_length), tokenizer, decided_by)


def _learnable(examples: Examples) -> Examples:
    """Leave out examples without a single label: they would divide by zero and teach nothing."""
    return examples.subset(np.flatnonzero(examples.label_counts))


def run_identity(config: RunConfig) -> str:
    """Content hash of a run: its configuration, the base's weights and the documents."""
    splits = load_documents(config.data, config.task)
    parts = [part.fingerprint for part in (splits.train, splits.validation, splits.test, *mixed_in(config))]
    return content_hash([config.identity(), models.fingerprint(config.model), parts])
