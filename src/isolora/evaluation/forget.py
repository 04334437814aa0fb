"""What a finished adapter has forgotten: losses on texts that it is not for, with and without it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isolora import adapters
from isolora.config import ForgettingConfig
from isolora.runs.prepared import other_texts
from isolora.training.forgetting import text_loss


def forget(folder: Path | str, sources: Sequence[str] = (), examples: int | None = None) -> dict[str, Any]:
    """For each source of texts, loss before and after in nats per token, and their difference; `forgetting` is the mean one.

    sources, examples: those of the run's own `forgetting`, or its defaults, where not given. Raises ConfigError for adapters
    whose model has no language head.
    """
    adapter = adapters.load(folder)
    asked = adapter.config.forgetting or ForgettingConfig()
    asked = ForgettingConfig(sources=tuple(sources) or asked.sources, examples=examples or asked.examples)
    config = adapter.config.model_copy(update={"forgetting": asked})
    base = adapter.base
    tokens, pad_id = config.training.batch_tokens, base.tokenizer.pad_token_id or 0
    found = {}
    for name, texts in other_texts(config, adapter.task, base.tokenizer, base.max_length).items():
        before, after = (text_loss(adapter.attached, spans, texts, tokens, pad_id) for spans in ((), [(0, 0, -1)]))
        found[name] = {"before": before, "after": after, "forgotten": after - before, "texts": len(texts)}
    return {"forgetting": sum(source["forgotten"] for source in found.values()) / len(found), "sources": found}
