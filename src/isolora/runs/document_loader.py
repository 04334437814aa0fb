"""A run's documents, read once: what it trains on, what it is measured on, what is mixed in; and the identity they give it.

The documents decide the task's classes. No weights and no tokenizer are needed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

from isolora import data, models, registry
from isolora.config import DataConfig, RunConfig, TaskConfig, content_hash, parse
from isolora.data import Documents, Splits
from isolora.data.documents import in_both
from isolora.tasks.base import Task

KEPT = 16
"""Data configurations that a loader holds: a mix has several, and so has what forgetting is measured on."""


class DocumentLoader:
    """Reads each data configuration once in its lifetime, and finds each run's classes once. A new loader sees files as they
    are then."""

    def __init__(self) -> None:
        self.load = lru_cache(KEPT)(_load)
        self.task = lru_cache(KEPT)(partial(_labelled_task, self.load))


def _load(config: DataConfig, task: TaskConfig) -> Splits:
    plain: Task = registry.load_plug_in("task", task.name)
    return data.load_documents(config, plain.bound(plain.Settings(**task.fields())))


def _labelled_task(load: Callable[[DataConfig, TaskConfig], Splits], config: RunConfig) -> Task:
    """The run's task with the classes that its documents give it."""
    task = models.bound_task(config)
    return task.bound(task.settings, task.find_labels(load(config.data, config.task).train), task.architecture)


@dataclass(frozen=True)
class MixedSource:
    """A source mixed into the training examples. config: the run that would learn its share alone."""

    config: RunConfig
    task: Task
    train: Documents
    held_out: Documents


@dataclass(frozen=True)
class RunDocuments:
    """The documents of a run and of all runs that share its data and task."""

    config: RunConfig
    task: Task
    splits: Splits
    mixed: Mapping[str, MixedSource]
    loader: DocumentLoader

    @classmethod
    def load(cls, config: RunConfig, loader: DocumentLoader | None = None) -> RunDocuments:
        """Raises DataError or ConfigError, one line."""
        loader = loader or DocumentLoader()
        splits, task = loader.load(config.data, config.task), loader.task(config)
        mixed = {name: _mixed_source(alone, task.labels, loader) for name, alone in mixed_runs(config, len(splits.train)).items()}
        return cls(config, task, splits, mixed, loader)

    @property
    def train(self) -> Documents:
        return self.splits.train

    @property
    def held_out(self) -> Documents:
        held_out: Documents = getattr(self.splits, self.config.data.eval_split)
        return held_out

    @cached_property
    def remark(self) -> str:
        """What differs from what was asked for, or is assumed: fewer held-out documents, some that are trained on, labels that
        are taken for numbers."""
        asked, split = self.config.data.eval_examples, self.config.data.eval_split
        fewer = f"data.eval_examples: {asked:,} asked for, {split} has {len(self.held_out):,}; all of them are used"
        known = in_both(self.train, self.held_out)
        leak = f"data: {known:,} of {len(self.held_out):,} documents of {split} are in training too, word for word"
        said = (fewer if len(self.held_out) < asked else "", leak if known else "", self.task.assumption(self.train))
        return "; ".join(filter(None, (*said, *_fewer_texts(self.config, self.loader))))

    def identity(self, config: RunConfig) -> str:
        """Content hash of a run over these documents: its configuration, the base's weights and the documents."""
        own = (self.splits.train, self.splits.validation, self.splits.test)
        parts = [part.fingerprint for part in (*own, *(source.train for source in self.mixed.values()))]
        decided_by = [config.identity(), models.fingerprint(config.model), parts]
        beside = self._measured_beside(config)
        return content_hash([*decided_by, beside] if beside else decided_by)

    def _measured_beside(self, config: RunConfig) -> list[str]:
        """Fingerprints of what is measured and not trained on, beside the run's own documents. Packaged texts never change, and
        runs over them are called in older stores as they are here."""
        found = [(source.config.data.source, source.held_out) for source in self.mixed.values()]
        found += [(source, splits.validation) for source, splits in forgetting_splits(config, self.loader).items()]
        return [documents.fingerprint for source, documents in found if source not in data.packaged_data()]


def forgetting_splits(config: RunConfig, loader: DocumentLoader) -> dict[str, Splits]:
    """The sources on which forgetting is measured: by their texts held out. None where it is not asked for."""
    if config.forgetting is None:
        return {}
    asked = {"eval_examples": config.forgetting.examples, "on_error": config.data.on_error}
    texts = {source: DataConfig(source=source, **asked) for source in config.forgetting.sources}
    return {source: loader.load(drawn, TaskConfig(name="causal-lm")) for source, drawn in texts.items()}


def _fewer_texts(config: RunConfig, loader: DocumentLoader) -> Iterator[str]:
    """One remark for each source of forgetting that has fewer held-out texts than were asked for."""
    asked = config.forgetting.examples if config.forgetting else 0
    for source, splits in forgetting_splits(config, loader).items():
        if (there := len(splits.validation)) < asked:
            yield f"forgetting.examples: {asked:,} asked for, {source} has {there:,} held-out texts; all of them are used"


def mixed_runs(config: RunConfig, own: int) -> dict[str, RunConfig]:
    """For each source that is mixed in, the run that would learn its share alone. own: training documents of the main source."""
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


def _mixed_source(alone: RunConfig, labels: tuple[str, ...], loader: DocumentLoader) -> MixedSource:
    """The source's documents whose labels are among the main source's classes."""
    task, splits = models.bound_task(alone, labels), loader.load(alone.data, alone.task)
    skip = alone.data.on_error == "skip"
    train, held_out = (data.usable_documents(part, task, skip) for part in (splits.train, getattr(splits, alone.data.eval_split)))
    return MixedSource(alone, task, train, held_out)
