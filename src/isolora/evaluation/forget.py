"""What a finished adapter has forgotten: losses on texts that it is not for, with and without it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from isolora import adapters
from isolora.config import ForgettingConfig
from isolora.json_types import JsonObject
from isolora.runs.prepared import other_texts, virtual_tokens
from isolora.training.evaluator import Evaluator


def forget(folder: Path | str, sources: Sequence[str] = (), examples: int | None = None) -> JsonObject:
    """For each source of texts, loss before and after in nats per token, and their difference; `forgetting` is the mean one,
    `rows_left_out` the count of rows that could not be read, where the run leaves such rows out.

    sources, examples: those of the run's own `forgetting`, or its defaults, where not given. Raises ConfigError for adapters
    whose model has no language head.
    """
    adapter = adapters.load(folder)
    asked = adapter.config.forgetting or ForgettingConfig()
    asked = ForgettingConfig(sources=tuple(sources) or asked.sources, examples=examples or asked.examples)
    config = adapter.config.model_copy(update={"forgetting": asked})
    base, evaluator = adapter.base, Evaluator(config, adapter.base, adapter.attached)
    held_out = other_texts(config, adapter.task, base.tokenizer, base.max_length - virtual_tokens(config))
    texts = {source: on.examples for source, on in held_out.items()}
    before, after = (evaluator.text_losses(texts, member) for member in (None, 0))
    found = {
        name: {"before": before[name], "after": after[name], "forgotten": after[name] - before[name], "texts": len(texts[name])}
        for name in texts
    }
    left_out = sum(len(on.documents.left_out) for on in held_out.values())
    mean = sum(source["forgotten"] for source in found.values()) / len(found)
    return {"forgetting": mean, "rows_left_out": left_out, "sources": found}
