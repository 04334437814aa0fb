"""Peak memory of a step: as rehearsed before the run, and as the profiler's records of the CPU's allocator have it.

Real shapes with random weights, one process, one thread. The records begin before the model is built, so that nothing is taken on
trust; the peak is that of a step after the optimiser's moments have been made.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import torch
from record import record
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile
from torch.profiler._utils import traverse_dfs

from isolora import models
from isolora.config import RunConfig, parse
from isolora.cost.calibration import random_model
from isolora.cost.estimate import typical
from isolora.cost.flops import TWO_CLASSES, attach_for_rehearsal, task_batch
from isolora.cost.memory import one_step, peak
from isolora.ledger import BatchShape
from isolora.runs.optimizer import AveragedAdamW
from isolora.tasks.base import Batch

LORA = {"name": "lora", "rank": 16}
CHECKPOINTED = {"gradient_checkpointing": True}
PAIRS: tuple[tuple[str, str, dict[str, Any], dict[str, Any]], ...] = (
    ("nano-1m", "causal-lm", LORA, {}),
    ("nano-1m", "causal-lm", LORA, CHECKPOINTED),
    ("nano-1m", "causal-lm", {"name": "qlora", "rank": 16}, {}),
    ("nano-1m", "causal-lm", {"name": "selective", "train": "layers", "layers": "last 1"}, {}),
    ("nano-1m", "causal-lm", {"name": "full"}, {}),
    ("nano-1m", "causal-lm", {"name": "prefix"}, {}),
    ("EleutherAI/pythia-70m", "causal-lm", LORA, {"precision": "bfloat16"}),
    ("openai-community/gpt2", "causal-lm", LORA, {}),
    ("FacebookAI/roberta-base", "sequence-classification", LORA, {}),
    ("FacebookAI/roberta-base", "sequence-classification", LORA, CHECKPOINTED),
    ("facebook/bart-base", "summarization", LORA, {}),
    ("google-t5/t5-small", "summarization", {"name": "bottleneck"}, {}),
)
ROWS, LENGTH = 4, 128


def run_of(model: str, task: str, method: dict[str, Any], training: dict[str, Any]) -> RunConfig:
    return parse(RunConfig, {"model": model, "task": task, "method": method, "training": {"steps": 1, **training}})


def measured(config: RunConfig, shape: BatchShape) -> int:
    """Peak bytes by the allocator's records of a real step, its weights and all that training holds included."""
    task = models.bound_task(config, TWO_CLASSES)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        attached = attach_for_rehearsal(config, task, random_model(config, task))
        optimizer = AveragedAdamW(attached.groups(0), config.training)
        optimizer.step(1.0)
        optimizer.finish_step(1)
        begun = time.time_ns()
        one_step(config, task, attached, optimizer, padded(task_batch(task, shape, "cpu")))
    return most_held(profiler, begun)


def most_held(profiler: profile, begun: int) -> int:
    """Peak bytes since `begun` [ns] by the allocator's records; what is released that was there before the records is left out,
    such as garbage of earlier work that Python finds on the way."""
    events = profiler.profiler.kineto_results.experimental_event_tree()
    records = [event for event in traverse_dfs(events) if event.typed[0] == _EventType.Allocation]
    sizes: dict[int, int] = {}
    held, most = 0, 0
    for event in sorted(records, key=lambda event: event.start_time_ns):
        place, size = event.extra_fields.ptr, event.extra_fields.alloc_size
        if size > 0:
            sizes[place] = size
        held += size if size > 0 else -sizes.pop(place, 0)
        most = max(most, held) if event.start_time_ns >= begun else held
    return most


def padded(batch: Batch) -> Batch:
    """The same with one token less in the first row, so that a mask is needed where attention looks both ways."""
    lengths = batch.lengths - torch.arange(len(batch.lengths)).eq(0).long()
    return replace(batch, lengths=lengths, second=None if batch.second is None else padded(batch.second))


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for pair in PAIRS:
        config = run_of(*pair)
        shape = typical(models.bound_task(config, TWO_CLASSES), ROWS, LENGTH)
        started = time.perf_counter()
        rehearsed = peak(config, shape).total
        seconds = time.perf_counter() - started
        found = measured(config, shape)
        model, task, method, training = pair
        row = {"model": model, "task": task, "method": method, **training, "predicted_bytes": rehearsed, "measured_bytes": found}
        rows.append({**row, "relative_error": rehearsed / found - 1, "rehearsal_seconds": seconds})
        print(json.dumps(rows[-1]))
    worst = max(abs(row["relative_error"]) for row in rows)
    record("memory", {"rows": ROWS, "length": LENGTH, "largest_relative_error": worst, "pairs": rows})


if __name__ == "__main__":
    main()
