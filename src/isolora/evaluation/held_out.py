"""Re-evaluate a saved adapter from its folder alone, on the held-out examples that its training was measured on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isolora import adapters
from isolora.metrics.perplexity import perplexity
from isolora.training.held_out import mean_losses, scores
from isolora.training.prepare import Prepared, examples_of, held_out_documents
from isolora.training.reference import with_reference


def evaluate(folder: Path | str) -> dict[str, Any]:
    """loss (nats per token), perplexity, the loss recorded at the end of training, and the relative difference of the two."""
    adapter = adapters.load(folder)
    task, tokenizer = adapter.task, adapter.base.tokenizer
    train, held_out = examples_of(adapter.config, task, tokenizer, adapter.base.max_length)
    held_out = with_reference(held_out, task, adapter.attached, adapter.config, tokenizer)
    ready = Prepared(adapter.base, task, train, held_out, held_out_documents(adapter.config))
    tokens, pad_id = adapter.config.training.batch_tokens, tokenizer.pad_token_id or 0
    loss = mean_losses(task, adapter.attached, held_out, [0], tokens, pad_id)[0]
    recorded = float(adapter.record["loss"])
    return {
        "loss": loss,
        "perplexity": perplexity(loss),
        "recorded_loss": recorded,
        "relative_difference": abs(loss - recorded) / recorded,
        "metrics": scores(ready, adapter.attached, 0, tokens, pad_id, loss),
        "recorded_metrics": adapter.record.get("metrics", {}),
        "examples": len(held_out),
        "labelled_tokens": int(held_out.label_counts.sum()),
    }
