"""Held-out loss and scores of several adapters on one base at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from isolora.methods._base import Attached, Span
from isolora.tasks._base import Batch, Examples, Task
from isolora.training.batches import collate, cut_by_tokens
from isolora.training.prepare import Prepared


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


@torch.no_grad()
def scores(ready: Prepared, attached: Attached, member: int, batch_tokens: int, pad_id: int, loss: float) -> dict[str, float]:
    """The task's own measures of one member on the held-out examples; loss: its mean loss there."""
    device = next(attached.model.parameters()).device

    def batches() -> Iterator[tuple[NDArray[np.int64], Batch]]:
        for indices in short_first(ready.held_out, batch_tokens):
            yield indices, collate(ready.held_out, indices, np.ones(len(indices), np.float32), pad_id).to(device)

    with attached.rows([(member, 0, -1)]):
        scored = ready.task.score(attached.model, ready.held_out, ready.documents, ready.base.tokenizer, batches)
    return scored | ready.task.restated(loss, ready.held_out, ready.base.tokenizer)


def short_first(examples: Examples, batch_tokens: int) -> Iterator[NDArray[np.int64]]:
    """All examples in batches of like size."""
    return cut_by_tokens(np.argsort(examples.sizes, kind="stable"), examples.sizes, batch_tokens)
