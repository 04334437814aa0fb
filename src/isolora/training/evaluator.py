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
from isolora.metrics.predictions import Predictions, all_scores
from isolora.models import Base
from isolora.runs.batches import collate, short_first
from isolora.runs.device import autocast
from isolora.runs.micro_batches import CPU_TOKENS
from isolora.runs.prepared import HeldOut, RunExamples
from isolora.tasks.base import Batch, Examples, Task
from isolora.tasks.returned import checked_loss
from isolora.training.ranks import ALONE, Ranks

LEAST_TOKENS = 1024
"""In one forward pass of several members on a CPU, CPU_TOKENS at most: nano-440k is evaluated at 12,800 tokens/s in passes of 512
tokens, at 15,800 to 19,600 in passes of 1,024 to 2,048, at 15,200 in passes of 8,192, which leave the cache."""


class Evaluator:
    """Owns device, precision, padding and batch size of all evaluations of a run.

    bare: leave the adapters out; a new head is then as it was before training. ranks: processes that share the batches of
    held-out losses.
    """

    def __init__(self, config: RunConfig, base: Base, attached: Attached, bare: bool = False, ranks: Ranks = ALONE) -> None:
        self.config, self.base, self.attached, self.bare, self.ranks = config, base, attached, bare, ranks
        self.batch_tokens, self.precision, self.least_tokens = config.training.batch_tokens, config.training.precision, 0
        if self.device.type == "cpu":
            self.batch_tokens, self.least_tokens = min(self.batch_tokens, CPU_TOKENS), LEAST_TOKENS

    def shrink(self, factor: int) -> None:
        """Evaluate in less memory."""
        self.batch_tokens, self.least_tokens = max(1, self.batch_tokens // factor), 0

    def _batches(self, examples: Examples, members: int = 1) -> list[NDArray[np.int64]]:
        """All examples in batches of like size, as members see them in one pass."""
        return list(short_first(examples, max(self.batch_tokens, self.least_tokens // members)))

    def _together(self, members: Sequence[int]) -> Iterator[Sequence[int]]:
        """Members that share a pass."""
        count = len(members) if self.device.type != "cpu" else max(1, CPU_TOKENS // self.batch_tokens)
        return (members[start : start + count] for start in range(0, len(members), count))

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
        return self.ranks.total(np.concatenate([self._row_losses(on, part) for part in self._together(members)]))

    def _row_losses(self, on: HeldOut, members: Sequence[int]) -> NDArray[np.float64]:
        """The same in joint passes, of this process's share of the examples."""
        losses = np.zeros((len(members), len(on.examples)))
        for number, indices in enumerate(self._batches(on.examples, len(members))[self.ranks.share]):
            batch = self._batch(on.examples, np.tile(indices, len(members)))
            with self._forward(self.attached.rows_of(dict.fromkeys(members, len(indices)))):
                loss = on.task.loss(self.attached.model, batch)
            if number == 0:
                checked_loss(on.task, loss, len(batch.lengths))
            losses[:, indices] = loss.row_losses.double().cpu().numpy().reshape(len(members), -1)
        return losses

    def losses(self, on: HeldOut, members: Sequence[int]) -> dict[int, float]:
        """Mean loss of each member: nats per labelled token, or per example where the task says so."""
        return dict(zip(members, map(on.mean_loss, self.row_losses(on, members)), strict=True))

    def predictions(self, on: HeldOut, member: int, losses: NDArray[np.float64] | None = None) -> Predictions:
        """What one member answers on held-out examples. losses [examples]: receives their summed losses, from the same forward
        passes, where the answers take any."""

        def batches() -> Iterator[tuple[NDArray[np.int64], Batch]]:
            for indices in self._batches(on.examples):
                batch = self._batch(on.examples, indices)
                if losses is not None:
                    batch = batch.keeping()
                    losses[indices] = on.task.loss(self.attached.model, batch).row_losses.double().cpu().numpy()
                yield indices, batch

        with self._forward(self.attached.all_rows(member)):
            found = on.task.predictions(self.attached.model, on.examples, on.documents, self.base.tokenizer, batches)
        given = type(found).__name__
        registry.owed("task", on.task.name, isinstance(found, Predictions), f"predictions() gave {given}; expected Predictions")
        return found

    def all_predictions(
        self, examples: RunExamples, member: int, losses: NDArray[np.float64] | None = None
    ) -> dict[str, Predictions]:
        """On the held-out examples, under "", and on those of each source that is mixed in, under `NAME/`. losses: as in
        `predictions`, of the held-out examples."""
        mixed = {f"{name}/": self.predictions(on, member) for name, on in examples.mixed.items()}
        return {"": self.predictions(examples.held_out, member, losses), **mixed}

    def losses_and_predictions(
        self, examples: RunExamples, members: Sequence[int], answering: Sequence[int]
    ) -> tuple[dict[int, NDArray[np.float64]], dict[int, dict[str, Predictions]]]:
        """(summed loss of every held-out example under each member, what `all_predictions` gives of those who are to answer).
        Where a task answers from the scores that its loss is of, one pass gives both."""
        on = examples.held_out
        rows = {k: np.full(len(on.examples), np.nan) for k in answering}
        found = {k: self.all_predictions(examples, k, rows[k]) for k in answering}
        losses = {k: row for k, row in rows.items() if np.isfinite(row).all()}
        others = [k for k in members if k not in losses]
        return losses | (dict(zip(others, self.row_losses(on, others), strict=True)) if others else {}), found

    def measures(self, examples: RunExamples, predictions: Mapping[str, Predictions], loss: float) -> dict[str, float]:
        """What `all_predictions` gave, scored, and the mean loss on the held-out examples as the task restates it."""
        return all_scores(predictions) | self.restated(examples.held_out, loss)

    def restated(self, on: HeldOut, loss: float) -> dict[str, float]:
        """A mean loss in the field's other units."""
        return on.task.restated(loss, on.examples, self.base.tokenizer)

    def text_losses(self, texts: Mapping[str, Examples], member: int | None) -> dict[str, float]:
        """Loss of plain texts by source in nats per predicted token, under one member, or under the bare base.

        What an adaptation costs on texts that it is not for is called forgetting (McCloskey and Cohen 1989).
        """
        plain: Task = registry.load_plug_in("task", "causal-lm")
        return {name: self._text_loss(plain, source, member) for name, source in texts.items()}

    def _text_loss(self, plain: Task, texts: Examples, member: int | None) -> float:
        total = 0.0
        with self._forward(self.attached.rows(()) if member is None else self.attached.all_rows(member)):
            for indices in self._batches(texts):
                total += float(plain.loss(self.attached.model, self._batch(texts, indices)).row_losses.double().sum())
        return total / int(texts.label_counts.sum())

    def reference_scores(self, task: Task, examples: Examples) -> NDArray[np.float32]:
        """Scores [examples, k] under the bare base, for tasks that compare with it."""
        batches = self._batches(examples)
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


def examples_digest(examples: Examples) -> str:
    """SHA-256 of what reference scores depend on."""
    found = hashlib.sha256()
    for part in (examples, examples.second):
        for array in () if part is None else (part.ids, part.labels, part.starts):
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
