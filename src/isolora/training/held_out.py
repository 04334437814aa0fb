"""Held-out loss of several adapters on one base at once."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from isolora.methods._base import Attached, Span
from isolora.tasks._base import Examples, Task
from isolora.training.batches import collate, cut_by_tokens

MAX_EXPONENT = math.log(sys.float_info.max)


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
    for indices in cut_by_tokens(np.argsort(examples.lengths, kind="stable"), examples.lengths, batch_tokens):
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
    """Held-out loss in nats per labelled token of each chosen member."""
    sums = row_losses(task, attached, examples, which, batch_tokens, pad_id).sum(1)
    return {k: float(total / examples.label_counts.sum()) for k, total in zip(which, sums, strict=True)}


def perplexity(loss: float) -> float:
    """exp of a loss in nats per token; infinite where a float cannot hold it."""
    return math.inf if loss > MAX_EXPONENT else math.exp(loss)
