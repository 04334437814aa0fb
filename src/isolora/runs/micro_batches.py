"""The parts that an optimiser step goes through the model in: as many as asked for, or as the processor's cache likes them."""

from __future__ import annotations

import math

import numpy as np

from isolora.config import TrainingConfig
from isolora.runs.batches import Indices
from isolora.runs.device import device

CPU_TOKENS = 2048
"""Most tokens of one pass on a CPU. Beyond, activations leave the cache: a step of 4,096 tokens is up to 1.2 times as fast in two
passes as in one (docs/decisions/2026-12-01-refilled-places.md)."""


def accumulation(training: TrainingConfig) -> int:
    """How many micro-batches a step has: `training.accumulation`, else on a CPU as many as keep each within CPU_TOKENS."""
    if training.accumulation is not None:
        return training.accumulation
    return math.ceil(training.batch_tokens / CPU_TOKENS) if device() == "cpu" else 1


def micro_batches(indices: Indices, count: int) -> list[Indices]:
    """A step's examples in at most `count` parts, none of them empty."""
    return [rows for rows in np.array_split(indices, count) if len(rows)]
