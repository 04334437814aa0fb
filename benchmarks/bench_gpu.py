"""A first hour with a GPU in one command: stacks of 1, 8, 32 members beside PEFT one after the other; under eight minutes.

Random weights and random texts: what is measured is tokens a second, the share of the measured matrix-product peak, and memory
beside what the ledger foretells. Without a GPU, `--quick` runs the same code on the CPU with small shapes and records nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from record import record

from isolora import models, registry
from isolora.config import RunConfig, parse
from isolora.cost.calibration import product_rate, random_model
from isolora.cost.flops import TWO_CLASSES, ledger_of
from isolora.cost.memory import peak
from isolora.ledger import BatchShape
from isolora.models import Base
from isolora.runs.batches import Stream, collate
from isolora.runs.device import autocast, device
from isolora.runs.member import Member
from isolora.runs.prepared import HeldOut, RunExamples
from isolora.tasks.base import IGNORED, Examples, Task
from isolora.training.stack import Stack

SHAPES = {"nano-1m": "causal-lm", "FacebookAI/roberta-large": "token-classification", "meta-llama/Llama-3.2-1B": "causal-lm"}
QUICK = {"nano-55k": "causal-lm"}
MEMBERS, FEW = (1, 8, 32), (1, 2)
SECONDS = 12.0
"""Of steps that are counted, for each contestant on each shape."""
SKIPPED = 2


def run_of(model: str, task: str, seed: int, precision: str) -> RunConfig:
    training = {"steps": 10**6, "batch_tokens": 4096, "precision": precision}
    return parse(RunConfig, {"model": model, "task": task, "seed": seed, "training": training})


def texts(task: Task, vocabulary: int) -> Examples:
    """Random tokens, 20 to 200 in a text; every position has a label."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(3, vocabulary, length).tolist() for length in rng.integers(20, 200, 500)]
    if task.predicts_tokens:
        return Examples.of([(row, [*row[1:], IGNORED]) for row in rows])
    return Examples.of([(row, [token % len(TWO_CLASSES) for token in row]) for row in rows])


def stack_of(model: str, task_name: str, members: int, precision: str) -> Stack:
    configs = [run_of(model, task_name, seed, precision) for seed in range(members)]
    task, method = models.bound_task(configs[0], TWO_CLASSES), registry.load_plug_in("method", "lora")
    base = random_model(configs[0], task).to(device())
    train = texts(task, base.config.vocab_size)
    settings = [method.settings(config.method.fields()) for config in configs]
    attached = method.attach(base, settings, list(range(members)), task.new_head)
    attached.train(True)
    ledger = ledger_of(configs[0], TWO_CLASSES)
    every = [Member(config, attached.groups(k), train, ledger) for k, config in enumerate(configs)]
    examples = RunExamples(train, HeldOut(task, train, None), {}, {})  # type: ignore[arg-type]
    accelerator = Accelerator(mixed_precision="bf16" if precision == "bfloat16" else "no", cpu=device() == "cpu")
    return Stack(Base(model, base, None, 0, 0, 0), examples, attached, every, [str(k) for k in range(members)], accelerator)


def finished() -> float:
    """Seconds, once all that was asked for is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def stacked(model: str, task: str, members: int, precision: str, seconds: float) -> dict[str, float]:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    stack = stack_of(model, task, members, precision)
    for _ in range(SKIPPED):
        stack.step()
    tokens, flops, started = *consumed(stack.members), finished()
    while finished() - started < seconds:
        stack.step()
    took, (after, done) = finished() - started, consumed(stack.members)
    member = stack.members[0]
    used = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    largest = BatchShape.of(stack.examples.train, member.stream.last)
    foretold = peak(member.config, largest, TWO_CLASSES, device()).total if members == 1 else 0
    return {
        "tokens_per_second": (after - tokens) / took,
        "flops_per_second": (done - flops) / took,
        "bytes": used,
        "bytes_by_ledger": foretold,
    }


def consumed(members: Sequence[Member]) -> tuple[float, float]:
    """(real tokens, FLOPs) so far."""
    return sum(member.progress.tokens for member in members), sum(member.progress.flops for member in members)


def sequential(model: str, task_name: str, precision: str, seconds: float) -> dict[str, float]:
    """PEFT on the same batches, one adapter: several one after the other are as fast."""
    config = run_of(model, task_name, 0, precision)
    task = models.bound_task(config, TWO_CLASSES)
    base = random_model(config, task).to(device())
    train = texts(task, base.config.vocab_size)
    adapter = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM" if task.predicts_tokens else None)
    adapted, stream = get_peft_model(base, adapter), Stream(train.sizes, config.training.batch_tokens, 0)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], fused=True)
    tokens, step, started = 0, 0, finished()
    while step < SKIPPED or finished() - started < seconds:
        if step == SKIPPED:
            tokens, started = 0, finished()
        rows = stream.next()
        batch = collate(train, rows, np.ones(len(rows), np.float32), 0).to(device())
        with autocast(device(), precision):
            logits = adapted(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        chosen = logits.flatten(0, 1).index_select(0, batch.positions).float()
        torch.nn.functional.cross_entropy(chosen, batch.targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        tokens, step = tokens + int(train.sizes[rows].sum()), step + 1
    return {"tokens_per_second": tokens / (finished() - started)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a second each on small shapes, nothing recorded")
    quick = parser.parse_args().quick
    if not quick and not torch.cuda.is_available():
        raise SystemExit("isolora: no GPU here; --quick runs the same code on the CPU")
    precision = "float32" if quick else "bfloat16"
    seconds, members, found = (1.0, FEW, {}) if quick else (SECONDS, MEMBERS, {})
    for model, task in (QUICK if quick else SHAPES).items():
        rate = product_rate(run_of(model, task, 0, precision))
        found[model] = measured(model, task, members, precision, seconds, rate)
        for name, values in found[model].items():
            print(model, name, {key: f"{value:.4g}" for key, value in values.items()})
    if not quick:
        record("gpu", {"device": torch.cuda.get_device_name(), "precision": precision, "shapes": found})


def measured(model: str, task: str, members: Sequence[int], precision: str, seconds: float, rate: float) -> dict[str, Any]:
    found = {"PEFT, one after the other": sequential(model, task, precision, seconds)}
    for count in members:
        speed = stacked(model, task, count, precision, seconds)
        found[f"ours, {count} members"] = {**speed, "share_of_peak": speed["flops_per_second"] / rate}
    return found


if __name__ == "__main__":
    main()
