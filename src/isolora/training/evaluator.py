"""Held-out loss and scores of several adapters on one base at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from isolora.methods.base import Attached, Span
from isolora.metrics.predictions import Predictions
from isolora.runs.batches import collate, cut_by_tokens
from isolora.runs.prepared import HeldOut, Prepared
from isolora.tasks.base import Batch, Examples, Task


def spans_of(counts: dict[int, int]) -> list[Span]:
    """Consecutive row spans for members with these many rows."""
    stops = np.cumsum(list(counts.values()))
    return [(k, int(stop - count), int(stop)) for (k, count), stop in zip(counts.items(), stops, strict=True)]


@torch.no_grad()
def row_losses(
    task: Task, attached: Attached, examples: Examples, which: Sequence[int], batch_tokens: int, pad_id: int
) -> NDArray[np.float64]:
    """Summed loss in nats of every example under every chosen member: [members, examples]."""
    losses = np.zeros((len(which), len(examples)))
    device = next(attached.model.parameters()).device
    for indices in short_first(examples, batch_tokens):
        rows = np.tile(indices, len(which))
        batch = collate(examples, rows, np.ones(len(rows), np.float32), pad_id)
        spans = spans_of({k: len(indices) for k in which})
        with attached.rows(spans if attached.members > 1 else [(0, 0, -1)]):
            loss = task.loss(attached.model, batch.to(device))
        losses[:, indices] = loss.row_losses.double().cpu().numpy().reshape(len(which), -1)
    return losses


def mean_losses(
    task: Task, attached: Attached, examples: Examples, which: Sequence[int], batch_tokens: int, pad_id: int
) -> dict[int, float]:
    """Held-out loss of each chosen member: nats per labelled token, or per example where the task says so."""
    sums = row_losses(task, attached, examples, which, batch_tokens, pad_id).sum(1)
    return {k: float(total / task.units(examples).sum()) for k, total in zip(which, sums, strict=True)}


def scores(ready: Prepared, attached: Attached, member: int, batch_tokens: int, pad_id: int, loss: float) -> dict[str, float]:
    """The task's own measures of one member on the held-out examples, and as `NAME/measure` on those of every source that is
    mixed in; loss: its mean loss on the former."""
    return measures(ready, predictions(ready, attached, member, batch_tokens, pad_id), loss)


def measures(ready: Prepared, answered: Mapping[str, Predictions], loss: float) -> dict[str, float]:
    """What `predictions` gave, scored, and the mean loss on the held-out examples as the task restates it."""
    found = {prefix + name: value for prefix, told in answered.items() for name, value in told.measures().items()}
    return found | ready.task.restated(loss, ready.held_out, ready.base.tokenizer)


@torch.no_grad()
def predictions(ready: Prepared, attached: Attached, member: int, batch_tokens: int, pad_id: int) -> dict[str, Predictions]:
    """What one member answers on the held-out examples, under "", and on those of each source that is mixed in, under `NAME/`."""
    device, tokenizer = next(attached.model.parameters()).device, ready.base.tokenizer

    def answered(on: HeldOut) -> Predictions:
        def batches() -> Iterator[tuple[NDArray[np.int64], Batch]]:
            for indices in short_first(on.examples, batch_tokens):
                yield indices, collate(on.examples, indices, np.ones(len(indices), np.float32), pad_id).to(device)

        return on.task.predictions(attached.model, on.examples, on.documents, tokenizer, batches)

    with attached.rows([(member, 0, -1)]):
        own = answered(HeldOut(ready.task, ready.held_out, ready.documents))
        return {"": own} | {f"{name}/": answered(on) for name, on in ready.mixed.items()}


def short_first(examples: Examples, batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """All examples in batches of like size."""
    return cut_by_tokens(np.argsort(examples.sizes, kind="stable"), examples.sizes, batch_tokens)
