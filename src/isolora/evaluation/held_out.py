"""Re-evaluate a saved adapter from its folder alone, on the held-out examples that its training was measured on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from isolora import adapters
from isolora.training.held_out import mean_losses
from isolora.training.prepare import prepare


def evaluate(folder: Path) -> dict[str, Any]:
    """loss (nats per token), perplexity, the loss recorded at the end of training, and the relative difference of the two."""
    adapter = adapters.load(folder)
    ready = prepare(adapter.config)
    pad_id = adapter.base.tokenizer.pad_token_id or 0
    tokens = adapter.config.training.batch_tokens
    loss = mean_losses(ready.task, adapter.attached, ready.held_out, [0], tokens, pad_id)[0]
    recorded = float(adapter.record["loss"])
    return {
        "loss": loss,
        "perplexity": math.exp(loss),
        "recorded_loss": recorded,
        "relative_difference": abs(loss - recorded) / recorded,
        "examples": len(ready.held_out),
        "labelled_tokens": int(ready.held_out.label_counts.sum()),
    }
