"""A run's method on a model, with the rows of its new tokens beside it where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isolora import registry
from isolora.config import RunConfig
from isolora.methods.base import Attached
from isolora.methods.new_tokens import NewTokens


def attach(runs: Sequence[RunConfig], model: Any, new_head: bool, known_tokens: int) -> Attached:
    """One member a run; what they share is the first one's. known_tokens: entries of the tokenizer before the new ones."""
    method, first = registry.load("method", runs[0].method.name), runs[0]
    seeds = [run.seed for run in runs]
    attached: Attached = method.attach(model, [method.settings(run.method.fields()) for run in runs], seeds, new_head)
    return NewTokens(attached, known_tokens, len(first.new_tokens), seeds) if first.new_tokens else attached
