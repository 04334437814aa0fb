"""Re-evaluate a saved adapter from its folder alone: on the held-out examples of its training, or on the other split's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isolora import adapters
from isolora.adapters import Adapter
from isolora.config import RunConfig
from isolora.errors import ConfigError, unknown
from isolora.methods.base import Attached, Span
from isolora.metrics.bootstrap import interval_of
from isolora.metrics.perplexity import perplexity
from isolora.metrics.predictions import Predictions
from isolora.runs.prepared import Prepared, examples_of, held_out_documents, mixed_held_out
from isolora.tasks.base import Examples, Task
from isolora.training.evaluator import measures, predictions, row_losses
from isolora.training.reference import mixed_with_reference, with_reference

SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Bare:
    """A model with its adapter in place and every row of a batch passed by it; a new head is as it was before training."""

    attached: Attached

    @property
    def model(self) -> Any:
        return self.attached.model

    @property
    def members(self) -> int:
        return self.attached.members

    def rows(self, spans: Sequence[Span]) -> AbstractContextManager[None]:
        return self.attached.rows(())


def evaluate(folder: Path | str, split: str | None = None, repeats: int = 1000, bare: bool = False) -> dict[str, Any]:
    """loss (nats per token), perplexity and the task's measures, with their 95 % `intervals`.

    On the split that training was measured on also the loss recorded at its end, and the relative difference of the two.
    repeats: draws of the bootstrap over held-out documents; 0: no intervals. bare: measure the base without the adapter. Raises
    ConfigError for another split.
    """
    adapter = adapters.load(folder)
    config = _measured_on(adapter.config, split)
    ready = _prepared(adapter, config)
    tokens, pad_id = config.training.batch_tokens, adapter.base.tokenizer.pad_token_id or 0
    attached: Any = Bare(adapter.attached) if bare else adapter.attached
    losses = row_losses(ready.task, attached, ready.held_out, [0], tokens, pad_id)[0]
    loss = float(losses.sum() / ready.task.units(ready.held_out).sum())
    answered = predictions(ready, attached, 0, tokens, pad_id)
    own_split = config.data.eval_split == adapter.config.data.eval_split
    return {
        "split": config.data.eval_split,
        "loss": loss,
        "perplexity": perplexity(loss),
        **(_recorded(adapter, loss) if own_split and not bare else {}),
        "metrics": measures(ready, answered, loss),
        "intervals": _intervals(ready, losses, answered, repeats) if repeats else {},
        "examples": len(ready.held_out),
        "labelled_tokens": int(ready.held_out.label_counts.sum()),
    }


def _measured_on(config: RunConfig, split: str | None) -> RunConfig:
    if split is None:
        return config
    if split not in SPLITS:
        raise ConfigError(unknown("split", split, SPLITS))
    return config.model_copy(update={"data": config.data.model_copy(update={"eval_split": split})})


def _prepared(adapter: Adapter, config: RunConfig) -> Prepared:
    base, task, tokenizer = adapter.base, adapter.task, adapter.base.tokenizer
    train, held_out = examples_of(config, task, tokenizer, base.max_length)
    held_out = with_reference(held_out, task, adapter.attached, config, tokenizer)
    mixed = mixed_held_out(config, task, tokenizer, base.max_length)
    mixed = mixed_with_reference(mixed, adapter.attached, config, tokenizer)
    return Prepared(base, task, train, held_out, held_out_documents(config), mixed=mixed)


def _recorded(adapter: Adapter, loss: float) -> dict[str, Any]:
    recorded = float(adapter.record["loss"])
    return {
        "recorded_loss": recorded,
        "relative_difference": abs(loss - recorded) / (recorded or 1.0),  # a toy can reach 0
        "recorded_metrics": adapter.record.get("metrics", {}),
    }


def _intervals(
    ready: Prepared, losses: NDArray[np.float64], answered: dict[str, Predictions], repeats: int
) -> dict[str, tuple[float, float]]:
    """95 % intervals by measure. What restates the loss, such as bits per byte, is restated at the ends of the loss's own."""
    ends = loss_interval(ready.task, ready.held_out, losses, repeats)
    low, high = (ready.task.restated(end, ready.held_out, ready.base.tokenizer) for end in ends)
    apart = {prefix + name: found for prefix, told in answered.items() for name, found in told.intervals(repeats).items()}
    return {"loss": ends, **apart, **{name: (low[name], high[name]) for name in low}}


def loss_interval(task: Task, examples: Examples, losses: NDArray[np.float64], repeats: int) -> tuple[float, float]:
    """95 % interval of the mean of losses [examples]: documents are drawn, each with all examples that were cut from it."""
    found = np.arange(len(examples)) if examples.documents is None else np.unique(examples.documents, return_inverse=True)[1]
    sums, units = (np.bincount(found, values) for values in (losses, task.units(examples)))
    return interval_of(lambda rows: float(sums[rows].sum() / units[rows].sum()), len(sums), repeats)
