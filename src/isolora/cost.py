"""What a run takes, before it is run: its steps are drawn from its real data and priced by the ledger. Needs no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from isolora import models
from isolora.config import RunConfig
from isolora.errors import ConfigError
from isolora.ledger import Flops, Ledger, rehearse
from isolora.training.account import Account
from isolora.training.batches import Stream
from isolora.training.prepare import examples_of


@dataclass(frozen=True)
class Cost:
    """FLOPs by phase, memory in bytes, tokens; of one step or of a whole run."""

    trainable_parameters: int
    all_parameters: int
    flops: Flops
    peak_memory_bytes: int
    tokens: int
    padding_tokens: int
    steps: int

    def to_json(self) -> dict[str, Any]:
        return {
            "trainable_parameters": self.trainable_parameters,
            "all_parameters": self.all_parameters,
            "trainable_share": self.trainable_parameters / self.all_parameters,
            "flops": self.flops.to_json(),
            "peak_memory_bytes": self.peak_memory_bytes,
            "tokens": self.tokens,
            "padding_tokens": self.padding_tokens,
            "steps": self.steps,
        }

    def __str__(self) -> str:
        share = 100 * self.trainable_parameters / self.all_parameters
        flops = self.flops
        parts = (("forward", flops.forward), ("to inputs", flops.backward_inputs), ("to weights", flops.backward_weights))
        return "\n".join(
            [
                f"trainable parameters  {self.trainable_parameters:,} of {self.all_parameters:,}, {share:.4f} %",
                f"FLOPs                 {flops.total:.4g} ({', '.join(f'{name} {value:.3g}' for name, value in parts)})",
                f"tokens                {self.tokens:,} and {self.padding_tokens:,} of padding in {self.steps:,} steps",
                f"peak memory           {self.peak_memory_bytes / 2**20:,.0f} MiB",
            ]
        )


def cost(config: RunConfig, shape: tuple[int, int] | None = None) -> Cost:
    """The cost of the whole run, or of one step of `shape` = (sequences, length) with every next token predicted."""
    price = rehearse(config)
    if shape is None:
        return _run_cost(config, price)
    rows, length = shape
    positions = models.positions(models.load_architecture(config))
    if length > positions:
        raise ConfigError(f"length: {length} exceeds the model's {positions} positions")
    labels = rows * (length - 1)
    return _cost(price, price.flops(rows, length, labels), price.peak_memory_bytes(rows, length, labels), rows * length, 0, 1)


def _run_cost(config: RunConfig, price: Ledger) -> Cost:
    """Draw the very batches that the run will draw."""
    train, _ = examples_of(config, models.load_tokenizer(config), models.positions(models.load_architecture(config)))
    account = Account(config, Stream(train.lengths, config.training.batch_tokens, config.seed), price)
    flops, memory = Flops(0, 0, 0), 0.0
    while account.spent() < 1:
        indices = account.stream.next()
        flops += account.book(train, indices)
        account.progress.step += 1
        parts = config.training.accumulation
        rows, labels = len(indices) / parts, int(train.label_counts[indices].sum()) / parts
        memory = max(memory, price.peak_memory_bytes(rows, train.lengths[indices].max(), labels))
    progress = account.progress
    return _cost(price, flops, memory, progress.tokens, progress.padding_tokens, progress.step)


def _cost(price: Ledger, flops: Flops, memory: float, tokens: int, padding_tokens: int, steps: int) -> Cost:
    everything = price.model_parameters + price.trainable_parameters
    return Cost(price.trainable_parameters, everything, flops, int(memory), tokens, padding_tokens, steps)


def shape_of(words: Sequence[str]) -> tuple[tuple[int, int] | None, list[str]]:
    """Take `batch=B` and `length=L` out of a run's key=value words; both or neither."""
    given = dict(word.partition("=")[::2] for word in words if word.startswith(("batch=", "length=")))
    rest = [word for word in words if not word.startswith(("batch=", "length="))]
    if not given:
        return None, rest
    for name in ("batch", "length"):
        if not given.get(name, "").isdecimal() or int(given[name]) < 1:
            raise ConfigError(f"{name}: one step needs batch=B and length=L, both whole numbers of 1 or more")
    return (int(given["batch"]), int(given["length"])), rest
