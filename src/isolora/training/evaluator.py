"""The evaluator: held-out losses and scores of adapters on a base, always under the arithmetic that their run asks for.

Training, `eval`, `forget`, `certify`, reference scores and searches all ask it, so that a score can be had again later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from isolora import data, models, registry
from isolora.config import RunConfig
from isolora.methods.base import Attached
from isolora.metrics.predictions import Predictions
from isolora.models import Base
from isolora.runs.batches import collate, cut_by_tokens
from isolora.runs.device import autocast
from isolora.runs.prepared import HeldOut, RunExamples
from isolora.tasks.base import Batch, Examples, Task
from isolora.tasks.returned import checked_loss
from isolora.training.ranks import ALONE, Ranks


class Evaluator:
    """Owns device, precision, padding and batch size of all evaluations of a run.

    bare: leave the adapters out; a new head is then as it was before training. ranks: processes that share the batches of
    held-out losses.
    """

    def __init__(self, config: RunConfig, base: Base, attached: Attached, bare: bool = False, ranks: Ranks = ALONE) -> None:
        self.config, self.base, self.attached, self.bare, self.ranks = config, base, attached, bare, ranks
        self.batch_tokens, self.precision = config.training.batch_tokens, config.training.precision

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.attached.model.parameters()).device
        return device

    @contextmanager
    def _forward(self, rows: AbstractContextManager[None]) -> Iterator[None]:
        """Around forward passes. rows: whose adapters see which rows of the batches."""
        with torch.no_grad(), self.attached.rows(()) if self.bare else rows, autocast(self.device, self.precision):
            yield

    def row_losses(self, on: HeldOut, members: Sequence[int]) -> NDArray[np.float64]:
        """Summed loss in nats of every example under every member: [members, examples]."""
        losses = np.zeros((len(members), len(on.examples)))
        for number, indices in enumerate(list(short_first(on.examples, self.batch_tokens))[self.ranks.share]):
            batch = self._batch(on.examples, np.tile(indices, len(members)))
            with self._forward(self.attached.rows_of(dict.fromkeys(members, len(indices)))):
                loss = on.task.loss(self.attached.model, batch)
            if number == 0:
                checked_loss(on.task, loss, len(batch.lengths))
            losses[:, indices] = loss.row_losses.double().cpu().numpy().reshape(len(members), -1)
        return self.ranks.total(losses)

    def losses(self, on: HeldOut, members: Sequence[int]) -> dict[int, float]:
        """Mean loss of each member: nats per labelled token, or per example where the task says so."""
        units = on.task.units(on.examples).sum()
        return {k: float(total / units) for k, total in zip(members, self.row_losses(on, members).sum(1), strict=True)}

    def predictions(self, on: HeldOut, member: int) -> Predictions:
        """What one member answers on held-out examples."""

        def batches() -> Iterator[tuple[NDArray[np.int64], Batch]]:
            for indices in short_first(on.examples, self.batch_tokens):
                yield indices, self._batch(on.examples, indices)

        with self._forward(self.attached.all_rows(member)):
            found = on.task.predictions(self.attached.model, on.examples, on.documents, self.base.tokenizer, batches)
        given = type(found).__name__
        registry.owed("task", on.task.name, isinstance(found, Predictions), f"predictions() gave {given}; expected Predictions")
        return found

    def all_predictions(self, examples: RunExamples, member: int) -> dict[str, Predictions]:
        """On the held-out examples, under "", and on those of each source that is mixed in, under `NAME/`."""
        mixed = {f"{name}/": self.predictions(on, member) for name, on in examples.mixed.items()}
        return {"": self.predictions(examples.held_out, member), **mixed}

    def measures(self, examples: RunExamples, predictions: Mapping[str, Predictions], loss: float) -> dict[str, float]:
        """What `all_predictions` gave, scored, and the mean loss on the held-out examples as the task restates it."""
        found = {prefix + name: value for prefix, part in predictions.items() for name, value in part.measures().items()}
        held_out = examples.held_out
        return found | held_out.task.restated(loss, held_out.examples, self.base.tokenizer)

    def text_losses(self, texts: Mapping[str, Examples], member: int | None) -> dict[str, float]:
        """Loss of plain texts by source in nats per predicted token, under one member, or under the bare base.

        What an adaptation costs on texts that it is not for is called forgetting (McCloskey and Cohen 1989).
        """
        plain: Task = registry.load_plug_in("task", "causal-lm")
        return {name: self._text_loss(plain, source, member) for name, source in texts.items()}

    def _text_loss(self, plain: Task, texts: Examples, member: int | None) -> float:
        total = 0.0
        with self._forward(self.attached.rows(()) if member is None else self.attached.all_rows(member)):
            for indices in short_first(texts, self.batch_tokens):
                total += float(plain.loss(self.attached.model, self._batch(texts, indices)).row_losses.double().sum())
        return total / int(texts.label_counts.sum())

    def reference_scores(self, task: Task, examples: Examples) -> NDArray[np.float32]:
        """Scores [examples, k] under the bare base, for tasks that compare with it."""
        batches = list(short_first(examples, self.batch_tokens))
        with self._forward(self.attached.rows(())):
            scores = [task.reference(self.attached.model, self._batch(examples, rows)) for rows in batches]
        found: NDArray[np.float32] = torch.cat(scores).float().cpu().numpy()
        return found[np.argsort(np.concatenate(batches))]

    def _batch(self, examples: Examples, rows: NDArray[np.int64]) -> Batch:
        return collate(examples, rows, np.ones(len(rows), np.float32), self.base.pad_id).to(self.device)

    def with_references(self, examples: RunExamples) -> RunExamples:
        """The same with `values`, where the task uses a reference; taken once, and cached by all that decides them."""
        if not examples.held_out.task.uses_reference:
            return examples
        task = examples.held_out.task
        return replace(
            examples,
            train=self._with_reference(task, examples.train),
            held_out=self._held_out_with_reference(examples.held_out),
            mixed={name: self._held_out_with_reference(on) for name, on in examples.mixed.items()},
        )

    def _held_out_with_reference(self, on: HeldOut) -> HeldOut:
        return replace(on, examples=self._with_reference(on.task, on.examples))

    def _with_reference(self, task: Task, examples: Examples) -> Examples:
        config = self.config
        quantised = models.weights_of(config).method.model_dump()  # the default one where nothing is
        weights = (models.fingerprint(config.model), quantised, config.training.precision)
        decided_by = (task.name, *weights, examples_digest(examples))
        return data.cached(
            lambda: replace(examples, values=self.reference_scores(task, examples)), self.base.tokenizer, decided_by
        )


def short_first(examples: Examples, batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """All examples in batches of like size."""
    return cut_by_tokens(np.argsort(examples.sizes, kind="stable"), examples.sequence_lengths, batch_tokens)


def examples_digest(examples: Examples) -> str:
    """SHA-256 of what reference scores depend on."""
    found = hashlib.sha256()
    for part in (examples, examples.second):
        for array in () if part is None else (part.ids, part.labels, part.starts):
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
