"""An exported adapter loaded by the programs that it is for, and compared with the live one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from isolora import models
from isolora.adapters import plain
from isolora.adapters.record import read_record, saved_task
from isolora.adapters.saved_adapter import Adapter
from isolora.errors import DataError
from isolora.json_types import JsonMapping, JsonObject
from isolora.models import Base

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE, RELATIVE_TOLERANCE = 1e-4, 1e-5
"""Differences of logits that float32 sums in another order explain: in themselves, and as a share of the largest. Logits of
20 and more, as large bases have them, were told apart by 1.6e-4 after a right merge."""
PATIENCE = 900.0
"""Seconds for a fresh process to load a large base."""


def probe_on_device(base: Base) -> Tensor:
    """The row of tokens [1, length] that all comparisons are made on, where the model is."""
    entries, last = min(len(base.tokenizer), _entries(base.model)), base.tokenizer.eos_token_id
    ids = plain.probe_row(entries, base.max_length, last if last is None or last < entries else None)
    return ids.to(next(base.model.parameters()).device)


def _entries(model: PreTrainedModel) -> int:
    """Tokens that the model has an embedding for, new ones included; a tokenizer may know more."""
    embedding = model.get_input_embeddings()
    new = getattr(embedding, "own", None)
    return max(int(embedding.weight.shape[0]), 0 if new is None else new.first + new.count)


def adapter_scores(adapter: Adapter) -> Tensor:
    """What the live adapter gives: all scores [n]."""
    with adapter.attached.rows([(0, 0, -1)]):
        return plain.plain_scores(adapter.attached.model, probe_on_device(adapter.base))


def largest_difference(a: Tensor, b: Tensor) -> float:
    """The largest difference; infinite for other shapes and for scores that are not finite."""
    if a.shape != b.shape or not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        return float("inf")
    return float((a - b).abs().max())


def tolerance(scores: Tensor) -> float:
    """The largest difference from these scores that rounding explains."""
    return TOLERANCE + RELATIVE_TOLERANCE * float(scores.abs().max())


def in_peft(place: Path, ids: Tensor) -> Tensor:
    """What transformers and PEFT alone give for an adapter's folder, in a fresh process: all scores [n]. Raises DataError."""
    return _asked({**request(place), "adapter": str(place.resolve()), "ids": ids.tolist()})


def request(place: Path) -> JsonObject:
    """What plain transformers is told about the base of an adapter: what its card tells a reader."""
    config, _ = read_record(place)
    task = saved_task(place)
    about = task.model_options()
    options = {"num_labels": len(about["id2label"]), "ignore_mismatched_sizes": True} if "id2label" in about else {}
    auto_class = task.auto_class(models.load_architecture(config))
    return {"base": models.locate(config.model), "auto_class": auto_class, "options": options}


def _asked(request: JsonMapping) -> Tensor:
    # -P: the script's own folder, whose file names are ours, stays off the path
    words = [sys.executable, "-P", plain.__file__]
    try:
        ended = subprocess.run(words, input=json.dumps(request), capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise DataError(f"plain PEFT took more than {PATIENCE:.0f} seconds to load the adapter") from None
    try:
        answer = json.loads(ended.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (ended.stderr.strip().splitlines() or ["no word"])[-1]
        raise DataError(f"plain PEFT ended with status {ended.returncode}: {last}") from None
    if "failure" in answer:
        raise DataError(f"plain PEFT: {answer['failure']}")
    return torch.tensor(answer["scores"])
