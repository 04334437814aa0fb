"""Measure a saved adapter again from its folder alone: on the held-out examples of its training, on the other split's, and on
texts that it is not for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from isolora import adapters
from isolora.adapters import Adapter
from isolora.config import ForgettingConfig, RunConfig
from isolora.errors import ConfigError, unknown
from isolora.json_types import JsonObject
from isolora.metrics.perplexity import perplexity
from isolora.metrics.predictions import Predictions, interval_of
from isolora.runs.document_loader import RunDocuments
from isolora.runs.prepared import HeldOut, RunExamples, demand_embeddings, other_texts, virtual_tokens
from isolora.training.evaluator import Evaluator

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLITS = ("validation", "test")


def evaluate(folder: Path | str, split: str | None = None, repeats: int = 1000, bare: bool = False) -> JsonObject:
    """loss (nats per token), perplexity and the task's measures, with their 95 % `intervals`.

    On the split that training was measured on also the loss recorded at its end, and the relative difference of the two.
    repeats: draws of the bootstrap over held-out documents; 0: no intervals. bare: measure the base without the adapter. Raises
    ConfigError for another split.
    """
    adapter = adapters.load(folder)
    config = _measured_on(adapter.config, split)
    evaluator = Evaluator(config, adapter.base, adapter.attached, bare)
    examples = _examples(adapter, config, evaluator)
    held_out = examples.held_out
    losses = evaluator.row_losses(held_out, [0])[0]
    loss = held_out.mean_loss(losses)
    predictions = evaluator.all_predictions(examples, 0)
    own_split = config.data.eval_split == adapter.config.data.eval_split
    return {
        "split": config.data.eval_split,
        "loss": loss,
        **({"perplexity": perplexity(loss)} if held_out.task.predicts_tokens else {}),
        **(_recorded(adapter, loss) if own_split and not bare else {}),
        "metrics": evaluator.measures(examples, predictions, loss),
        "intervals": _intervals(held_out, losses, predictions, adapter.base.tokenizer, repeats) if repeats else {},
        "examples": len(held_out.examples),
        "labelled_tokens": int(held_out.examples.label_counts.sum()),
    }


def _measured_on(config: RunConfig, split: str | None) -> RunConfig:
    if split is None:
        return config
    if split not in SPLITS:
        raise ConfigError(unknown("split", split, SPLITS))
    return config.model_copy(update={"data": config.data.model_copy(update={"eval_split": split})})


def _examples(adapter: Adapter, config: RunConfig, evaluator: Evaluator) -> RunExamples:
    """Those that the adapter's training was measured on, with the classes that it knows."""
    documents = replace(RunDocuments.load(config), task=adapter.task)
    examples = RunExamples.of(documents, adapter.base.tokenizer, adapter.base.max_length)
    demand_embeddings(examples, adapter.base, len(config.new_tokens))
    return evaluator.with_references(examples)


def _recorded(adapter: Adapter, loss: float) -> JsonObject:
    recorded = float(adapter.record["loss"])
    return {
        "recorded_loss": recorded,
        "relative_difference": abs(loss - recorded) / (recorded or 1.0),  # a toy can reach 0
        "recorded_metrics": adapter.record.get("metrics", {}),
    }


def _intervals(
    on: HeldOut,
    losses: NDArray[np.float64],
    predictions: dict[str, Predictions],
    tokenizer: PreTrainedTokenizerBase,
    repeats: int,
) -> dict[str, tuple[float, float]]:
    """95 % intervals by measure. What restates the loss, such as bits per byte, is restated at the ends of the loss's own."""
    ends = loss_interval(on, losses, repeats)
    low, high = (on.task.restated(end, on.examples, tokenizer) for end in ends)
    drawn = {prefix + name: found for prefix, part in predictions.items() for name, found in part.intervals(repeats).items()}
    return {"loss": ends, **drawn, **{name: (low[name], high[name]) for name in low}}


def loss_interval(on: HeldOut, losses: NDArray[np.float64], repeats: int) -> tuple[float, float]:
    """95 % interval of the mean of losses [examples]: documents are drawn, each with all examples that were cut from it."""
    examples = on.examples
    found = np.arange(len(examples)) if examples.documents is None else np.unique(examples.documents, return_inverse=True)[1]
    sums, units = (np.bincount(found, values) for values in (losses, on.task.units(examples)))
    return interval_of(lambda rows: float(sums[rows].sum() / units[rows].sum()), len(sums), repeats)


def forget(folder: Path | str, sources: Sequence[str] = (), examples: int | None = None) -> JsonObject:
    """What the adapter has forgotten: for each source of texts, loss before and after in nats per token, and their difference;
    `forgetting` is the mean one, `rows_left_out` the count of rows that could not be read, where the run leaves such rows out.

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
