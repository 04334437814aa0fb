"""Re-evaluate a saved adapter from its folder alone, on the held-out examples that its training was measured on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isolora import adapters, registry
from isolora.training.held_out import mean_losses, perplexity
from isolora.training.prepare import examples_of


def evaluate(folder: Path | str) -> dict[str, Any]:
    """loss (nats per token), perplexity, the loss recorded at the end of training, and the relative difference of the two."""
    adapter = adapters.load(folder)
    task, tokenizer = registry.load("task", adapter.config.task), adapter.base.tokenizer
    _, held_out = examples_of(adapter.config, tokenizer, adapter.base.max_length)
    tokens = adapter.config.training.batch_tokens
    loss = mean_losses(task, adapter.attached, held_out, [0], tokens, tokenizer.pad_token_id or 0)[0]
    recorded = float(adapter.record["loss"])
    return {
        "loss": loss,
        "perplexity": perplexity(loss),
        "recorded_loss": recorded,
        "relative_difference": abs(loss - recorded) / recorded,
        "examples": len(held_out),
        "labelled_tokens": int(held_out.label_counts.sum()),
    }
