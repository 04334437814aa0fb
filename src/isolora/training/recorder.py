"""What is written down of runs: their rows, where they took place, their points, how they ended, and the adapters they leave."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch

from isolora import models, registry
from isolora.adapters import record
from isolora.caches import versions
from isolora.config import RunConfig
from isolora.cost.crosscheck import Pair
from isolora.json_types import JsonMapping, JsonObject
from isolora.metrics.perplexity import perplexity
from isolora.runs.observer import Observer
from isolora.store import DIVERGED, DONE, PRUNED, Point, Run, Store, adapter_place, state_name
from isolora.training.checkpoint import sha256
from isolora.training.stack import Stack

PACKAGES = ("isolora", "torch", "transformers", "peft", "accelerate", "numpy", "scipy")


COUNTED = ("tokens", "padding_tokens", "unique_tokens", "unique_examples", "step", "flops", "seconds")
"""Fields of a member's progress that points and records repeat."""


def environment() -> JsonObject:
    """Where a run takes place: versions, commit, device, threads."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "versions": {**dict.fromkeys(PACKAGES), **versions(PACKAGES), "python": platform.python_version()},
        "commit": _commit(),
        "device": device,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


@cache
def _commit() -> str | None:
    """The commit of a source checkout; None for an installed package, and where git is not installed or does not answer."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


class Recorder(Observer):
    """Writes points to the store, and at the end adapters and states. stage: as in `Run`; left_out: rows that were not used."""

    def __init__(self, store: Store, stage: str, left_out: int) -> None:
        self.store, self.stage, self.left_out = store, stage, left_out

    def on_points(self, stack: Stack, points: Sequence[Point]) -> None:
        self.store.write(points)

    def on_settled(self, stack: Stack, k: int, measures: Mapping[int, Mapping[str, float]]) -> None:
        self.store.settle(stack.names[k], measures)

    def conclude(self, stack: Stack, k: int, checks: Mapping[str, Pair], why: str = "") -> None:
        """Keep a finished member's adapter and enter how it ended. why: it was pruned, where that is known."""
        member, name = stack.members[k], stack.names[k]
        progress = member.progress
        if progress.state == DONE:
            save_adapter(stack, k, adapter_place(self.store.folder, self.stage, name), self.left_out, checks)
        spent = member.spent()
        reasons = {
            DIVERGED: f"the loss was not finite at step {progress.step}",
            PRUNED: f"pruned at {spent:.0%} of its budget{why and f': {why}'}",
        }
        kind = {"architecture": stack.base.model.config.model_type, "entries": stack.base.tokenizer.vocab_size}
        self.store.note(name, {"checks": dict(checks), "spent": spent, "rows_left_out": self.left_out, "base": kind})
        self.store.set_state([name], progress.state, reasons.get(progress.state, ""))


def run_row(config: RunConfig, identity: str, stage: str) -> Run:
    """The store's row for a run."""
    return Run(
        run=identity,
        stage=stage,
        model=config.model,
        task=config.task.name,
        method=config.method.name,
        rank=config.method.fields().get("rank"),
        learning_rate=config.training.learning_rate,
        seed=config.seed,
        config=config.model_dump_json(),
    )


def point(stack: Stack, k: int, loss: float) -> Point:
    """Where a member stands at an evaluation."""
    member = stack.members[k]
    progress, ledger = member.progress, member.ledger
    return Point(
        run=stack.names[k],
        **{name: getattr(progress, name) for name in COUNTED},
        passes=progress.passes,
        body_parameters=ledger.body_parameters,
        model_parameters=ledger.model_parameters,
        trainable_parameters=ledger.trainable_parameters,
        loss=loss,
        train_loss=progress.train_loss,
        peak_memory_bytes=stack.memory_bytes[k] or process_memory_bytes(),
        metrics=json.dumps(progress.metrics | {f"forgotten.{name}": lost for name, lost in progress.forgotten.items()}),
        forgetting=statistics.fmean(progress.forgotten.values()) if progress.forgotten else None,
        flops_by_group=json.dumps(progress.consumed_flops.by_group()),
    )


def process_memory_bytes() -> int:
    """Largest memory so far of the accelerator where there is one, else of the process, whatever it has run before: an upper
    bound where a run's own peak cannot be predicted."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def save_adapter(stack: Stack, k: int, folder: Path, left_out: int, checks: Mapping[str, Pair] = {}) -> None:
    """Save a member's averaged weights with what they cost, what they reach and how they came about."""
    member = stack.members[k]
    member.optimizer.exchange()
    stack.attached.save(k, folder)
    member.optimizer.exchange()
    config, progress, ledger = member.config, member.progress, member.ledger
    facts = {
        "config": config.model_dump(),
        "run": stack.names[k],
        "origins": record.recorded_origins(config),
        "format": "isolora" if record.beyond_peft(folder) else "peft",
        "auto_class": stack.task.auto_class(stack.task.architecture),
        "loss": progress.last_loss,
        "metrics": progress.metrics,
        **{name: getattr(progress, name) for name in COUNTED},
        "passes": progress.passes,
        "trainable_parameters": ledger.trainable_parameters,
        "model_parameters": ledger.model_parameters,
        "labels": list(stack.task.labels),
        "adapter": stack.attached.facts(k),
        "base": models.fingerprint(config.model),
        "environment": environment(),
        "checks": dict(checks),
        "rows_left_out": left_out,
        "files": {path.name: sha256(path) for path in record.files(folder)},
    }
    record.write_record(folder, facts)


def better_before(points: Sequence[JsonMapping]) -> JsonObject:
    """The evaluation with the lowest held-out loss, where that is not the last one: the run has been trained for too long."""
    best = min(points, key=lambda point: float(point["loss"]))
    if best["loss"] >= points[-1]["loss"]:
        return {}
    return {"best": {name: best[name] for name in ("step", "tokens", "passes", "loss")}}


def outcome(store: Store, name: str) -> JsonObject:
    """State of a run, its last point, and under `checks` what was predicted beside what was measured."""
    row = next(row for row in store.runs() if row["run"] == name)
    result: JsonObject = {"run": name, "state": state_name(row["state"]), "folder": str(store.folder)}
    if row["reason"]:
        result["reason"] = row["reason"]
    points = store.points(name)
    if points:
        noted, last = json.loads(row["environment"]), points[-1]
        result |= {name: noted.get(name, default) for name, default in (("rows_left_out", 0), ("checks", {}))}
        shown = ("loss", "tokens", "padding_tokens", "passes", "step", "flops", "seconds", "trainable_parameters")
        result |= {key: last[key] for key in (*shown, "peak_memory_bytes")}
        result["metrics"] = json.loads(last["metrics"])
        result |= better_before(points)
        if registry.load_plug_in("task", row["task"]).predicts_tokens:
            result["perplexity"] = perplexity(last["loss"])
    if row["state"] == DONE:
        result["adapter"] = str(adapter_place(store.folder, row["stage"], name))
    return result
