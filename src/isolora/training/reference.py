"""What the bare base makes of every example, for tasks that compare with it: taken once before training, and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from isolora import data, models
from isolora.config import RunConfig
from isolora.methods.base import Attached
from isolora.runs.batches import collate
from isolora.runs.prepared import HeldOut
from isolora.tasks.base import Examples, Task
from isolora.training.evaluator import short_first


def with_reference(examples: Examples, task: Task, attached: Attached, config: RunConfig, tokenizer: Any) -> Examples:
    """The same with `values`, where the task uses a reference."""
    if not task.uses_reference:
        return examples
    quantised = models.weights_of(config).method.model_dump()  # the default one where nothing is
    decided_by = (task.name, models.fingerprint(config.model), quantised, config.training.precision, digest(examples))
    tokens, pad_id = config.training.batch_tokens, tokenizer.pad_token_id or 0
    return data.cached(
        lambda: replace(examples, values=reference_scores(task, attached, examples, tokens, pad_id)), tokenizer, decided_by
    )


def mixed_with_reference(
    mixed: Mapping[str, HeldOut], attached: Attached, config: RunConfig, tokenizer: Any
) -> dict[str, HeldOut]:
    """The same for every source that is mixed in."""
    return {
        name: replace(on, examples=with_reference(on.examples, on.task, attached, config, tokenizer))
        for name, on in mixed.items()
    }


@torch.no_grad()
def reference_scores(task: Task, attached: Attached, examples: Examples, batch_tokens: int, pad_id: int) -> NDArray[np.float32]:
    """Scores [examples, k] under the bare base."""
    device = next(attached.model.parameters()).device
    batches = list(short_first(examples, batch_tokens))
    with attached.rows(()):
        scores = [
            task.reference(attached.model, collate(examples, rows, np.ones(len(rows), np.float32), pad_id).to(device))
            for rows in batches
        ]
    found: NDArray[np.float32] = torch.cat(scores).float().cpu().numpy()
    return found[np.argsort(np.concatenate(batches))]


def digest(examples: Examples) -> str:
    """SHA-256 of what the scores depend on."""
    found = hashlib.sha256()
    for part in (examples, examples.second):
        for array in () if part is None else (part.ids, part.labels, part.starts):
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
