"""Softmax cross-entropy through an output head, in chunks of rows, so that the logits never leave the processor's cache.

With a vocabulary of 4,096 the logits of a small model outweigh its body; a chunked pass that computes the gradient to the
hidden states at once made a training step 1.2 to 1.8 times as fast as the plain one (measured on two cores, 0.05 to 1 M weights).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from isolora.frozen_products import frozen_product

CHUNK_ROWS = 128
"""With 4,096 entries 2 MB of logits, so that they stay in a core's second cache: 0.7 to 0.9 of the time of 256 rows."""


class FrozenHeadCrossEntropy(torch.autograd.Function):
    """Per-row negative log-likelihood through a frozen head; the backward pass needs no logits.

    Shapes: hidden [rows, width], weight [entries, width], targets [rows], row_weights [rows].
    Returns (Σ row_weights · nll, nll [rows]).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, row_weights: Tensor, need_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden, dtype=torch.float32) if need_gradient else None  # autograd casts it back
        for start in range(0, len(hidden), CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            wanted = targets[chunk, None]
            logits = frozen_product(hidden[chunk], weight).float()
            top = logits.amax(1, keepdim=True)
            picked = logits.gather(1, wanted)
            shares = torch.softmax(logits, 1, out=logits)  # in place, 0.6 of the time of its parts
            losses[chunk] = (top - picked - shares.amax(1, keepdim=True).log())[:, 0]
            if gradient is not None:  # (softmax - one-hot) W, the latter subtracted in the width, not over all entries
                with torch.autocast(weight.device.type, enabled=False):  # the gradient keeps its precision
                    gradient[chunk] = frozen_product(shares.to(weight.dtype), weight.T)
        if gradient is not None:
            ctx.save_for_backward(gradient.sub_(weight[targets]).mul_(row_weights[:, None]))
        ctx.mark_non_differentiable(losses)
        return (losses * row_weights).sum(), losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (hidden_gradient,) = ctx.saved_tensors
        return hidden_gradient * gradients[0], None, None, None, None


def frozen_head(hidden: Tensor, weight: Tensor, targets: Tensor, row_weights: Tensor) -> tuple[Tensor, Tensor]:
    """(Σ row_weights · nll, nll [rows]) through a head without bias whose weight is frozen."""
    if hidden.is_meta:  # a rehearsal wants the same products booked where autograd puts them
        return from_logits(hidden @ weight.T, targets, row_weights)
    need_gradient = torch.is_grad_enabled() and hidden.requires_grad
    total, losses = FrozenHeadCrossEntropy.apply(hidden, weight, targets, row_weights, need_gradient)  # type: ignore[no-untyped-call]
    return total, losses


def from_logits(logits: Tensor, targets: Tensor, row_weights: Tensor) -> tuple[Tensor, Tensor]:
    """The same from logits [rows, entries], for heads that are trained, biased or scaled."""
    losses = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return (losses * row_weights).sum(), losses.detach()
