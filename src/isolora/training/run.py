"""Train runs: enter them in the store, put them on one stack, keep the averaged adapters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState

from isolora import registry
from isolora.config import RunConfig, content_hash
from isolora.cost.crosscheck import CrossCheck
from isolora.cost.flops import ledger_of
from isolora.cost.memory import peak_of_run
from isolora.data import left_out_summary
from isolora.errors import ConfigError
from isolora.runs.documents import RunDocuments
from isolora.runs.member import Member
from isolora.runs.observer import Observer
from isolora.runs.prepared import PreparedRun
from isolora.runs.workspace import Workspace
from isolora.store import ENDED, FILE, PRUNED, RUNNING, Point, Store
from isolora.training import tracking
from isolora.training.checkpoint import Checkpointer, clear, newest
from isolora.training.environment import environment
from isolora.training.evaluator import Evaluator
from isolora.training.loop import Loop
from isolora.training.progress_bar import ProgressBar
from isolora.training.recorder import Recorder, outcome, run_row
from isolora.training.stack import Stack

CHECKPOINTS = "checkpoints"

ShouldPrune = Callable[[Point], bool]
"""Asked after every evaluation, in the order of the runs; a run that it says yes to ends there as PRUNED."""


def never_prune(point: Point) -> bool:
    return False


def train(config: RunConfig, folder: Path | str, must_exist: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Train one run in a folder of its own, or go on with it there; returns how it ended.

    must_exist: refuse a folder without a run. Raises ConfigError when the folder holds another run.
    """
    folder, workspace = Path(folder), Workspace()
    name = RunDocuments.load(config, workspace.documents).identity(config)
    if must_exist and not (folder / FILE).is_file():
        raise ConfigError(f"--resume: {folder} holds no run")
    store = Store(folder)
    if store.states() and name not in store.states():
        raise ConfigError(f"--out: {folder} holds another run (its settings, base or data differ); choose another folder")
    train_stack([config], store, "train", quiet, workspace=workspace)
    return outcome(store, name)


def train_stack(
    configs: Sequence[RunConfig],
    store: Store,
    stage: str,
    quiet: bool = False,
    should_prune: ShouldPrune = never_prune,
    workspace: Workspace | None = None,
) -> list[str]:
    """Train runs that share a base, data and batch size together; returns their identities, also of those already done.

    What was finished is not repeated; what was cut off goes on from its last valid checkpoint.
    """
    workspace = workspace or Workspace()
    documents = RunDocuments.load(configs[0], workspace.documents)
    names = [documents.identity(config) for config in configs]
    store.add([run_row(config, name, stage) for config, name in zip(configs, names, strict=True)], environment())
    ended = {name for name, state in store.states().items() if state in ENDED}
    folder = store.folder / CHECKPOINTS / content_hash(names)
    if ended >= set(names):
        return names
    if ended & set(names) and newest(folder) is None:  # the stack has grown since: only its new members are trained
        missing = [config for config, name in zip(configs, names, strict=True) if name not in ended]
        train_stack(missing, store, stage, quiet, should_prune, workspace)
        return names
    tracking.check(configs)
    store.set_state([name for name in names if name not in ended], RUNNING)
    _train(configs, names, folder, store, stage, quiet, should_prune, workspace)
    if not any(config.training.keep_checkpoints for config in configs):
        clear(folder)
    return names


def _train(
    configs: Sequence[RunConfig],
    names: Sequence[str],
    folder: Path,
    store: Store,
    stage: str,
    quiet: bool,
    should_prune: ShouldPrune,
    workspace: Workspace,
) -> None:
    training, title = configs[0].training, f"{configs[0].model} x {len(configs)}"
    with loaded_stack(configs, names, workspace) as (stack, evaluator, left_out):
        if left_out:
            print(f"isolora: {left_out_summary(left_out)}", file=sys.stderr)
        recorder = Recorder(store, stage, len(left_out))
        crosscheck = CrossCheck(configs, memory=stage == "train")
        keep_all = any(config.training.keep_checkpoints for config in configs)
        checkpointer = Checkpointer(folder, training.checkpoint_seconds, keep_all)
        with tracking.tracked(stack, store.folder) as trackers, ProgressBar(title, quiet) as bar:
            observers = [recorder, trackers, Pruner(should_prune), crosscheck, bar]
            Loop(stack, evaluator, checkpointer, observers).run(registry.load("trainer", training.trainer).drive)
            for k in range(len(configs)):  # kept before the trackers are closed: one may wait for its network
                recorder.conclude(stack, k, crosscheck.of(stack, k))


@contextmanager
def loaded_stack(
    configs: Sequence[RunConfig], names: Sequence[str], workspace: Workspace
) -> Iterator[tuple[Stack, Evaluator, tuple[str, ...]]]:
    """(the stack of these runs, its evaluator, origins of rows left out); at the end the base is bare again."""
    first = configs[0]
    trainer = registry.ready("trainer", first.training.trainer)
    with PreparedRun.load(first, workspace) as run:
        trainer.check(first, run.task)
        AcceleratorState._reset_state()  # it would hold on to the precision of the stack before
        accelerator = Accelerator(mixed_precision="bf16" if first.training.precision == "bfloat16" else "no")
        run.base.model.to(accelerator.device)
        attached = run.attach(configs)
        _checkpoint_activations(run.base.model, first.training.gradient_checkpointing)
        evaluator = Evaluator(first, run.base, attached)
        examples = evaluator.with_references(run.examples)
        members = [
            Member(config, attached.groups(k), examples.train, ledger_of(config, run.task.labels, workspace.ledgers))
            for k, config in enumerate(configs)
        ]
        labels, device = run.task.labels, accelerator.device.type
        memory = [peak_of_run(config, examples.train, labels, device, workspace.memory_bytes) for config in configs]
        stack = Stack(run.base, examples, attached, members, names, accelerator, memory)
        yield stack, evaluator, run.examples.left_out


def _checkpoint_activations(model: Any, wanted: bool) -> None:
    if wanted:
        model.activation_checkpointing_enable()
    elif model.is_activation_checkpointing:  # left by the stack before
        model.activation_checkpointing_disable()


class Pruner(Observer):
    """Ends members early whose points are not worth the rest of their budget."""

    def __init__(self, should_prune: ShouldPrune) -> None:
        self.should_prune = should_prune

    def on_points(self, stack: Stack, points: Sequence[Point]) -> None:
        members = dict(zip(stack.names, stack.members, strict=True))
        for point in points:
            if self.should_prune(point) and members[point.run].running:
                members[point.run].progress.state = PRUNED
