"""Train runs: enter them in the store, put them on one stack, keep the averaged adapters."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState

from isolora import ledger, models
from isolora.adapters import record
from isolora.config import RunConfig, TrainingConfig, content_hash
from isolora.cost import flops as rehearsal
from isolora.cost.crosscheck import Checks, Pair
from isolora.data import said
from isolora.errors import ConfigError
from isolora.metrics.perplexity import perplexity
from isolora.runs.attachment import attach
from isolora.runs.batches import Stream
from isolora.runs.member import Member
from isolora.runs.prepared import prepare, run_identity
from isolora.store import DIVERGED, DONE, ENDED, FILE, PRUNED, RUNNING, Point, Run, Store
from isolora.training import checkpoint, trackers
from isolora.training.backends import driver
from isolora.training.environment import environment
from isolora.training.loop import Stack
from isolora.training.progress_bar import Reporter
from isolora.training.reference import mixed_with_reference, with_reference

CHECKPOINTS = "checkpoints"


def describe(config: RunConfig, stage: str) -> Run:
    """The store's row for a run."""
    return Run(
        run=run_identity(config),
        stage=stage,
        model=config.model,
        task=config.task.name,
        method=config.method.name,
        rank=config.method.fields().get("rank"),
        learning_rate=config.training.learning_rate,
        seed=config.seed,
        config=config.model_dump_json(),
    )


@lru_cache(maxsize=256)
def price(config: RunConfig, labels: tuple[str, ...]) -> ledger.Ledger:
    """The ledger of a run, kept for the runs that share its base and method."""
    return rehearsal.rehearse(config, labels)


def price_of(config: RunConfig, labels: tuple[str, ...]) -> ledger.Ledger:
    """As `price`, whatever the run's data, budget and seed."""
    own = {"model", "task", "method", "trust_remote_code", "new_tokens"}
    training = TrainingConfig(tokens=1, gradient_checkpointing=config.training.gradient_checkpointing)
    return price(RunConfig(**{key: getattr(config, key) for key in own}, training=training), labels)


def train_stack(
    configs: Sequence[RunConfig],
    store: Store,
    stage: str,
    quiet: bool = False,
    hopeless: Callable[[Point], bool] = lambda point: False,
) -> list[str]:
    """Train runs that share a base, data and batch size together; returns their identities, also of those already done.

    What was finished is not repeated; what was cut off goes on from its last valid checkpoint. hopeless: asked after every
    evaluation, in the order of the runs; a run that it says yes to ends there as PRUNED.
    """
    runs = [describe(config, stage) for config in configs]
    store.add(runs, environment())
    ended = {name for name, state in store.states().items() if state in ENDED}
    names = [run.run for run in runs]
    folder = store.folder / CHECKPOINTS / content_hash(names)
    if ended >= set(names):
        return names
    if ended & set(names) and checkpoint.newest(folder) is None:  # the stack has grown since: only its new members are trained
        missing = [config for config, name in zip(configs, names, strict=True) if name not in ended]
        if missing:
            train_stack(missing, store, stage, quiet, hopeless)
        return names
    trackers.check(configs)
    store.set_state([name for name in names if name not in ended], RUNNING)
    stack = build(configs, names, store, hopeless)
    checks = Checks(stack, configs, memory=stage == "train")
    title = f"{configs[0].model} x {len(configs)}"
    try:
        with trackers.tracked(stack, store.folder):
            with Reporter(title, quiet) as reporter:
                seconds, on_step = configs[0].training.checkpoint_seconds, lambda stack: reporter.update(*_standing(stack))
                stack.train(folder, seconds, on_step, checks.watching, driver(configs[0].training.trainer))
            for k, config in enumerate(configs):  # kept before the trackers are closed: one may wait for its network
                _conclude(stack, k, config, store, stage, checks.of(k))
    finally:
        stack.attached.detach()  # the base is kept for the next stack
    if not any(config.training.keep_checkpoints for config in configs):
        checkpoint.clear(folder)
    return names


def train(config: RunConfig, folder: Path | str, must_exist: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Train one run in a folder of its own, or go on with it there; returns how it ended.

    must_exist: refuse a folder without a run. Raises ConfigError when the folder holds another run.
    """
    folder, name = Path(folder), run_identity(config)
    if must_exist and not (folder / FILE).is_file():
        raise ConfigError(f"--resume: {folder} holds no run")
    store = Store(folder)
    if store.states() and name not in store.states():
        raise ConfigError(f"--out: {folder} holds another run (its settings, base or data differ); choose another folder")
    train_stack([config], store, "train", quiet)
    return outcome(store, name)


def outcome(store: Store, name: str) -> dict[str, Any]:
    """State of a run, its last point, and under `checks` what was predicted beside what was measured."""
    row = next(row for row in store.runs() if row["run"] == name)
    result = {"run": name, "state": row["state"], "folder": str(store.folder)}
    if row["reason"]:
        result["reason"] = row["reason"]
    points = store.points(name)
    if points:
        kept = (
            "loss",
            "tokens",
            "padding_tokens",
            "passes",
            "step",
            "flops",
            "seconds",
            "trainable_parameters",
            "peak_memory_bytes",
        )
        noted = json.loads(row["environment"])
        result |= {name: noted.get(name, default) for name, default in (("rows_left_out", 0), ("checks", {}))}
        result |= {"perplexity": perplexity(points[-1]["loss"]), **{key: points[-1][key] for key in kept}}
    if row["state"] == DONE:
        result["adapter"] = str(adapter_folder(store, row["stage"], name))
    return result


def _conclude(stack: Stack, k: int, config: RunConfig, store: Store, stage: str, checks: dict[str, Pair]) -> None:
    """Keep a finished member's adapter and enter how it ended."""
    progress = stack.members[k].progress
    if progress.state == DONE:
        keep(stack, k, adapter_folder(store, stage, stack.names[k]), config, checks)
    spent = stack.members[k].spent()
    reasons = {DIVERGED: f"the loss was not finite at step {progress.step}", PRUNED: f"pruned at {spent:.0%} of its budget"}
    store.note(stack.names[k], {"checks": checks, "spent": spent, "rows_left_out": len(stack.ready.left_out)})
    store.set_state([stack.names[k]], progress.state, reasons.get(progress.state, ""))


def adapter_folder(store: Store, stage: str, name: str) -> Path:
    """Where a run's adapter lies: `adapter` for a run trained alone or at the end of a search, `recommended` for a verified one,
    else `adapters/RUN`."""
    alone = {"train": "adapter", "final": "adapter", "verify": "recommended"}
    return store.folder / alone[stage] if stage in alone else store.folder / "adapters" / name


def build(
    configs: Sequence[RunConfig],
    names: Sequence[str],
    store: Store,
    hopeless: Callable[[Point], bool] = lambda point: False,
) -> Stack:
    first = configs[0]
    ready = prepare(first)
    if ready.left_out:
        print(f"isolora: {said(ready.left_out)}", file=sys.stderr)
    AcceleratorState._reset_state()  # it would hold on to the precision of the stack before
    accelerator = Accelerator(mixed_precision="bf16" if first.training.precision == "bfloat16" else "no")
    ready.base.model.to(accelerator.device)
    known_tokens = len(ready.base.tokenizer) - len(first.new_tokens)
    attached = attach(configs, ready.base.model, ready.task.new_head, known_tokens)
    if first.training.gradient_checkpointing:
        ready.base.model.activation_checkpointing_enable()
    elif ready.base.model.is_activation_checkpointing:  # left by the stack before
        ready.base.model.activation_checkpointing_disable()
    with accelerator.autocast():
        ready = replace(
            ready,
            train=with_reference(ready.train, ready.task, attached, first, ready.base.tokenizer),
            held_out=with_reference(ready.held_out, ready.task, attached, first, ready.base.tokenizer),
            mixed=mixed_with_reference(ready.mixed, attached, first, ready.base.tokenizer),
        )
    labels = ready.task.labels
    members = [
        Member(
            config,
            attached.groups(k),
            Stream(ready.train.sizes, config.training.batch_tokens, config.seed),
            price_of(config, labels),
        )
        for k, config in enumerate(configs)
    ]
    pad_id = ready.base.tokenizer.pad_token_id or 0
    return Stack(ready, attached, members, names, pad_id, accelerator, store.write, hopeless)


def _standing(stack: Stack) -> tuple[float, str]:
    running = [member for member in stack.members if member.running] or stack.members
    share = min(member.spent() for member in running)
    loss = min(member.progress.loss_sum / max(1, member.progress.loss_count) for member in running)
    return share, f"train loss {loss:.3f}" if loss else ""


def keep(stack: Stack, k: int, folder: Path, config: RunConfig, checks: Mapping[str, Pair] = {}) -> None:
    """Save a member's averaged weights with what they cost, what they reach and how they came about."""
    member = stack.members[k]
    member.exchange()
    stack.attached.save(k, folder)
    member.exchange()
    progress, price = member.progress, member.price
    spent = ("tokens", "padding_tokens", "unique_tokens", "unique_examples", "step", "flops", "seconds")
    facts = {
        "config": config.model_dump(),
        "run": stack.names[k],
        "origins": record.origins(config),
        "format": "isolora" if record.beyond_peft(folder) else "peft",
        "auto_class": stack.task.auto_class(stack.ready.base.model.config),
        "loss": progress.last_loss,
        "metrics": progress.metrics,
        **{name: getattr(progress, name) for name in spent},
        "passes": progress.tokens / progress.unique_tokens,
        "trainable_parameters": price.trainable_parameters,
        "model_parameters": price.model_parameters,
        "labels": list(stack.task.labels),
        "adapter": stack.attached.facts(k),
        "base": models.fingerprint(config.model),
        "environment": environment(),
        "checks": dict(checks),
        "rows_left_out": len(stack.ready.left_out),
        "files": {path.name: checkpoint.sha256(path) for path in record.files(folder)},
    }
    record.write(folder, facts)
