"""Train runs: enter them in the store, put them on one stack, keep the averaged adapters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from isolora import ledger, models, registry, rehearsal
from isolora.adapters import RECORD
from isolora.config import RunConfig, TrainingConfig, content_hash
from isolora.errors import ConfigError
from isolora.metrics.perplexity import perplexity
from isolora.store import DIVERGED, DONE, FILE, RUNNING, Run, Store
from isolora.training import checkpoint
from isolora.training.batches import Stream
from isolora.training.environment import environment
from isolora.training.loop import Stack
from isolora.training.member import Member
from isolora.training.prepare import prepare, run_identity
from isolora.training.progress import Reporter

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
def price(config: RunConfig) -> ledger.Ledger:
    """The ledger of a run, kept for the runs that share its base and method."""
    return rehearsal.rehearse(config)


def price_of(config: RunConfig) -> ledger.Ledger:
    """As `price`, whatever the run's data, budget and seed."""
    own = {"model", "task", "method", "trust_remote_code"}
    training = TrainingConfig(tokens=1, gradient_checkpointing=config.training.gradient_checkpointing)
    return price(RunConfig(**{key: getattr(config, key) for key in own}, training=training))


def train_stack(configs: Sequence[RunConfig], store: Store, stage: str, quiet: bool = False) -> list[str]:
    """Train runs that share a base, data and batch size together; returns their identities, also of those already done.

    What was finished is not repeated; what was cut off goes on from its last valid checkpoint.
    """
    runs = [describe(config, stage) for config in configs]
    store.add(runs, environment())
    ended = {name for name, state in store.states().items() if state in (DONE, DIVERGED)}
    names = [run.run for run in runs]
    folder = store.folder / CHECKPOINTS / content_hash(names)
    if ended & set(names) and checkpoint.newest(folder) is None:  # the stack has grown since: only its new members are trained
        missing = [config for config, name in zip(configs, names, strict=True) if name not in ended]
        if missing:
            train_stack(missing, store, stage, quiet)
        return names
    store.set_state([name for name in names if name not in ended], RUNNING)
    stack = _build(configs, names, store)
    title = f"{configs[0].model} x {len(configs)}"
    try:
        with Reporter(title, quiet) as reporter:
            stack.train(folder, configs[0].training.checkpoint_seconds, lambda stack: reporter.update(*_standing(stack)))
        for k, config in enumerate(configs):
            _conclude(stack, k, config, store, stage)
    finally:
        stack.attached.detach()  # the base is kept for the next stack
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
    """State of a run and its last point, as a flat mapping."""
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
        result |= {"perplexity": perplexity(points[-1]["loss"]), **{key: points[-1][key] for key in kept}}
    if row["state"] == DONE:
        result["adapter"] = str(adapter_folder(store, row["stage"], name))
    return result


def _conclude(stack: Stack, k: int, config: RunConfig, store: Store, stage: str) -> None:
    """Keep a finished member's adapter and enter how it ended."""
    progress = stack.members[k].progress
    if progress.state == DONE:
        _keep(stack, k, adapter_folder(store, stage, stack.names[k]), config)
    reason = "" if progress.state == DONE else f"the loss was not finite at step {progress.step}"
    store.set_state([stack.names[k]], progress.state, reason)


def adapter_folder(store: Store, stage: str, name: str) -> Path:
    """Where a run's adapter lies: `adapter` for a run trained alone, `recommended` for a verified one, else `adapters/RUN`."""
    alone = {"train": "adapter", "verify": "recommended"}
    return store.folder / alone[stage] if stage in alone else store.folder / "adapters" / name


def _build(configs: Sequence[RunConfig], names: Sequence[str], store: Store) -> Stack:
    first = configs[0]
    ready = prepare(first)
    accelerator = Accelerator(mixed_precision="bf16" if first.training.precision == "bfloat16" else "no")
    ready.base.model.to(accelerator.device)
    method = registry.load("method", first.method.name)
    settings, seeds = [method.settings(config.method.fields()) for config in configs], [config.seed for config in configs]
    attached = method.attach(ready.base.model, settings, seeds, ready.task.new_head)
    if first.training.gradient_checkpointing:
        ready.base.model.activation_checkpointing_enable()
    elif ready.base.model.is_activation_checkpointing:  # left by the stack before
        ready.base.model.activation_checkpointing_disable()
    members = [
        Member(config, attached.groups(k), Stream(ready.train.sizes, config.training.batch_tokens, config.seed), price_of(config))
        for k, config in enumerate(configs)
    ]
    pad_id = ready.base.tokenizer.pad_token_id or 0
    return Stack(ready, attached, members, names, pad_id, accelerator, store.write)


def _standing(stack: Stack) -> tuple[float, str]:
    running = [member for member in stack.members if member.running] or stack.members
    share = min(member.spent() for member in running)
    loss = min(member.progress.loss_sum / max(1, member.progress.loss_count) for member in running)
    return share, f"train loss {loss:.3f}" if loss else ""


def _keep(stack: Stack, k: int, folder: Path, config: RunConfig) -> None:
    """Save a member's averaged weights with the configuration that made them."""
    member = stack.members[k]
    member.exchange()
    stack.attached.save(k, folder)
    member.exchange()
    record = {
        "config": config.model_dump(),
        "run": stack.names[k],
        "loss": member.progress.last_loss,
        "tokens": member.progress.tokens,
        "metrics": member.progress.metrics,
        "labels": list(stack.task.labels),
        "adapter": stack.attached.facts(k),
        "base": models.fingerprint(config.model),
        "files": {path.name: checkpoint.sha256(path) for path in sorted(folder.glob("adapter_*"))},
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
