"""Forgetting: what an adaptation costs on texts that it is not for (McCloskey and Cohen 1989, "Catastrophic interference")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from isolora import registry
from isolora.methods.base import Attached, Span
from isolora.runs.batches import collate
from isolora.tasks.base import Examples, Task
from isolora.training.evaluator import short_first


@torch.no_grad()
def text_loss(attached: Attached, spans: Sequence[Span], texts: Examples, batch_tokens: int, pad_id: int) -> float:
    """Loss of plain texts in nats per predicted token, with these members' adapters; no spans: the bare base."""
    plain: Task = registry.load("task", "causal-lm")
    device = next(attached.model.parameters()).device
    total = 0.0
    with attached.rows(spans):
        for indices in short_first(texts, batch_tokens):
            batch = collate(texts, indices, np.ones(len(indices), np.float32), pad_id)
            total += float(plain.loss(attached.model, batch.to(device)).row_losses.double().sum())
    return total / int(texts.label_counts.sum())
