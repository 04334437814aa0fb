"""Train runs: enter them in the store, put them on one stack, keep the averaged adapters."""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from isolora import registry
from isolora.config import RunConfig
from isolora.cost.crosscheck import CrossCheck
from isolora.cost.flops import ledger_of
from isolora.cost.memory import peak_of_run
from isolora.data import left_out_summary
from isolora.errors import ConfigError, RunFailed
from isolora.json_types import JsonObject
from isolora.methods.base import Attached
from isolora.methods.low_rank import RowsMixed
from isolora.methods.recomputation import enable_recomputation
from isolora.runs.document_loader import RunDocuments
from isolora.runs.member import Member
from isolora.runs.observer import Observer
from isolora.runs.prepared import PreparedRun
from isolora.runs.workspace import Workspace
from isolora.store import FILE, PRUNED, RUNNING, Point, Store
from isolora.tasks.base import Examples
from isolora.training import tracking
from isolora.training.checkpoint import Checkpointer, clear, newest
from isolora.training.evaluator import Evaluator
from isolora.training.failures import MemoryExhausted, entered, in_one_line, is_out_of_memory
from isolora.training.folder import locked_store, say
from isolora.training.interruption import StopWatch, deferred, handled
from isolora.training.lease import lease
from isolora.training.loop import Loop
from isolora.training.progress_bar import ProgressBar
from isolora.training.ranks import ALONE, Ranks, launched, shard
from isolora.training.recorder import Recorder, environment, outcome, run_row
from isolora.training.refill import Queue, Refill
from isolora.training.stack import Stack
from isolora.training.stack_job import ShouldPrune, StackJob, never_prune

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def train(config: RunConfig, folder: Path | str, must_exist: bool = False, quiet: bool = False) -> JsonObject:
    """Train one run in a folder of its own, or go on with it there; returns how it ended, and nothing in a process that another
    one leads.

    must_exist: refuse a folder without a run. Raises ConfigError when the folder holds another run, RunFailed where the training
    broke, and Interrupted (a KeyboardInterrupt), with a checkpoint kept, on INT and TERM.
    """
    folder, workspace = Path(folder), Workspace()
    with handled():
        ranks = launched()
        _demand_data_parallel(config, ranks)
        if not ranks.leads:
            return _follow(ranks, workspace)
        with ranks.led():
            return _lead(config, folder, must_exist, quiet, workspace, ranks)


def _lead(config: RunConfig, folder: Path, must_exist: bool, quiet: bool, workspace: Workspace, ranks: Ranks) -> JsonObject:
    documents = RunDocuments.load(config, workspace.documents)
    name = documents.identity(config)
    if must_exist and not (folder / FILE).is_file():
        raise ConfigError(f"--resume: {folder} holds no run")
    with locked_store(folder) as store:
        if store.states() and name not in store.states():
            raise ConfigError(f"--out: {folder} holds another run (its settings, base or data differ); choose another folder")
        if documents.remark:
            print(f"isolora: {documents.remark}", file=sys.stderr)
        train_stack([config], store, "train", quiet, workspace=workspace, ranks=ranks)
        return outcome(store, name)


def train_stack(
    configs: Sequence[RunConfig],
    store: Store,
    stage: str,
    quiet: bool = False,
    should_prune: ShouldPrune = never_prune,
    workspace: Workspace | None = None,
    ranks: Ranks = ALONE,
) -> list[str]:
    """Train runs that share a base, data and batch size together; returns their identities, also of those already done.

    What was finished is not repeated; what was cut off goes on from its last valid checkpoint. A `should_prune` that is a Queue
    also says which of them begin, and who takes the places of those that have ended. Raises RunFailed, one line, for an
    unexpected error; the store then has FAILED or OUT_OF_MEMORY as the state of the runs that had not ended.
    """
    workspace = workspace or Workspace()
    documents = RunDocuments.load(configs[0], workspace.documents)
    names = [documents.identity(config) for config in configs]
    store.add([run_row(config, name, stage) for config, name in zip(configs, names, strict=True)], environment())
    queue = should_prune if isinstance(should_prune, Queue) else None
    first = dict(zip(names, configs, strict=True)) if queue is None else queue.next_runs({}, ())
    _train_missing(
        StackJob(tuple(first.values()), tuple(first), store, stage, quiet, should_prune, workspace, ranks, queue=queue)
    )
    return names


def _train_missing(job: StackJob) -> None:
    """Train what has not ended of a stack, as long as nobody else does."""
    ended = job.store.ended()
    if ended >= set(job.names):
        return
    if ended & set(job.names) and newest(job.folder) is None:  # the stack has grown since: only its new members are trained
        _train_missing(job.part([k for k, name in enumerate(job.names) if name not in ended]))
        return
    tracking.check_trackers(job.configs)
    with entered(job.store, job.members):
        job.folder.mkdir(parents=True, exist_ok=True)
        with lease(job.folder):
            job = _as_cut_off(job)
            missing = [name for name in job.names if name not in job.store.ended()]
            job.store.set_state(missing, RUNNING)
            parts = _train_together(job) if missing else []
            if not job.keeps_checkpoints:
                clear(job.folder)
    _train_parts(parts)


def _as_cut_off(job: StackJob) -> StackJob:
    """A job whose stack others have joined goes on with the members of its last checkpoint."""
    found = newest(job.folder) if job.queue else None
    if job.queue is None or found is None:
        return job
    job.queue.joined += found[1]["names"]
    return job.of_members(found[1]["names"])


def _train_parts(parts: Sequence[StackJob]) -> None:
    """One after the other; what breaks one of them does not hold up the others, and is raised at the end."""
    broken: list[RunFailed] = []
    for part in parts:
        try:
            _train_missing(part)
        except RunFailed as failure:
            broken.append(failure)
    if broken:
        raise broken[0]


def _train_together(job: StackJob) -> list[StackJob]:
    """Train a stack; where a layer of the architecture mixes the rows of a batch, returns its members to train one by one."""
    try:
        return _train_within_memory(job)
    except RowsMixed:
        say(
            job.store.folder,
            f"{job.configs[0].model} x {len(job.configs)}: a layer mixes the rows of a batch; going on one by one",
        )
        return [job.part([k]) for k in range(len(job.configs))]


def _train_within_memory(job: StackJob) -> list[StackJob]:
    """Train a stack in micro-batches that fit; where none do, returns the smaller stacks to train in its place."""
    while (failure := _out_of_memory(job)) is not None:
        parts = job.smaller()
        if not parts:
            raise MemoryExhausted(
                f"out of memory, alone and in micro-batches {job.shrunk} times smaller than asked for ({failure})"
            )
        for part in parts:
            _note_less_memory(part)
        if len(parts) > 1:
            return parts
        [job] = parts
    return []


def _out_of_memory(job: StackJob) -> str | None:
    """Train a stack; returns what the allocator said where memory ran out, None where it did not."""
    try:
        _train(job)
    except Exception as failure:
        if not is_out_of_memory(failure) or job.ranks.count > 1:  # the others wait in the middle of a step
            raise
        return in_one_line(failure)
    return None


def _note_less_memory(job: StackJob) -> None:
    """Tell and record how a stack goes on; the garbage of the attempt goes first."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    facts = {"accumulation": job.as_trained()[0].training.accumulation, "stack": len(job.configs)}
    for name in job.names:
        job.store.note(name, {"out_of_memory": facts})
    size = f"{facts['accumulation']} micro-batches a step, {facts['stack']} runs together"
    say(job.store.folder, f"out of memory; going on with {size}: the same batches in less memory")


def _train(job: StackJob) -> None:
    configs, store = job.as_trained(), job.store
    training, title = configs[0].training, f"{configs[0].model} x {len(configs)}"
    job.ranks.send((configs, job.names, job.folder))
    with loaded_stack(configs, job.names, job.workspace, job.ranks) as (stack, evaluator, left_out):
        if job.shrunk > 1:
            evaluator.shrink(job.shrunk)
        if left_out:
            print(f"isolora: {left_out_summary(left_out)}", file=sys.stderr)
        recorder = Recorder(store, job.stage, len(left_out))
        crosscheck = CrossCheck(configs, memory=job.stage == "train")
        checks = [crosscheck] if job.ranks.count == 1 else []  # of whole steps, and each process takes a part of one
        checkpointer = Checkpointer(job.folder, training.checkpoint_seconds, job.keeps_checkpoints)
        with tracking.tracked(stack, store.folder) as trackers, ProgressBar(title, job.quiet) as bar, deferred():
            stop_watch = StopWatch(checkpointer, store.folder)
            pruner = Pruner(job.should_prune)
            observers = [recorder, trackers, pruner, *checks, bar, stop_watch]

            def conclude(k: int) -> None:
                recorder.conclude(stack, k, crosscheck.of(stack, k), pruner.reasons.get(stack.names[k], ""))

            refill = Refill(job.queue, conclude) if job.queue else None
            slow_scores = job.stage != "tune"  # trials are compared by their losses
            loop = Loop(stack, evaluator, checkpointer, observers, refill, slow_scores)
            loop.run(registry.load_plug_in("trainer", training.trainer).drive)
            line = f"drive() ended while {len(stack.running)} of {len(stack.members)} members were still running"
            registry.owed("trainer", training.trainer, not stack.running, line)
            for k, name in enumerate(stack.names):  # kept before the trackers are closed: one may wait for its network
                if refill is None or name not in refill.concluded:
                    conclude(k)
    job.ranks.training = False


def _follow(ranks: Ranks, workspace: Workspace) -> JsonObject:
    """Take a share of every step of the stacks that process 0 trains; writes nothing."""
    while (job := ranks.receive()) is not None:
        configs, names, folder = job
        with loaded_stack(configs, names, workspace, ranks) as (stack, evaluator, _), deferred():
            checkpointer = Checkpointer(folder, math.inf, writes=False)
            Loop(stack, evaluator, checkpointer, [StopWatch(checkpointer, folder)]).run()
    return {}


def _demand_data_parallel(config: RunConfig, ranks: Ranks) -> None:
    """Raises ConfigError for a run that these processes cannot train together."""
    trainer = config.training.trainer
    if ranks.count == 1 and config.training.shard_base:
        raise ConfigError("training.shard_base: this is one process; start several with accelerate launch or torchrun")
    if ranks.count > 1 and not registry.load_plug_in("trainer", trainer).data_parallel:
        able = [name for name in registry.usable("trainer") if registry.load_plug_in("trainer", name).data_parallel]
        raise ConfigError(
            f"training.trainer: {trainer} runs in one process, and {ranks.count} were launched (valid here: {', '.join(able)})"
        )


@contextmanager
def loaded_stack(
    configs: Sequence[RunConfig], names: Sequence[str], workspace: Workspace, ranks: Ranks = ALONE
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
        if first.training.shard_base:
            shard(run.base.model, accelerator.device, ranks)
        sharing = ALONE if first.training.shard_base else ranks  # all go through a sharded base together
        evaluator = Evaluator(first, run.base, attached, ranks=sharing)
        examples = evaluator.with_references(run.examples)
        members, memory = _members(run, configs, attached, examples.train, workspace)
        form = None if first.training.shard_base else partial(_formed, run, examples.train, workspace)
        stack = Stack(run.base, examples, attached, members, names, accelerator, memory, ranks, form)
        yield stack, evaluator, run.examples.left_out


def _formed(
    run: PreparedRun, train: Examples, workspace: Workspace, configs: Sequence[RunConfig]
) -> tuple[Attached, list[Member], list[int | None]]:
    """Other members on a base that is there; see `Form`."""
    attached = run.attach(configs)
    return attached, *_members(run, configs, attached, train, workspace)


def _members(
    run: PreparedRun, configs: Sequence[RunConfig], attached: Attached, train: Examples, workspace: Workspace
) -> tuple[list[Member], list[int | None]]:
    """(the members of a stack, the predicted peak of each one's memory)."""
    labels, device = run.task.labels, run.base.model.device.type
    ledgers = [ledger_of(config, labels, workspace.ledgers) for config in configs]
    members = [Member(config, attached.groups(k), train, ledgers[k]) for k, config in enumerate(configs)]
    return members, [peak_of_run(config, train, labels, device, workspace.memory_bytes) for config in configs]


def _checkpoint_activations(model: PreTrainedModel, wanted: bool) -> None:
    if wanted:
        enable_recomputation(model)
    elif model.is_activation_checkpointing:  # left by the stack before
        model.activation_checkpointing_disable()


class Pruner(Observer):
    """Ends members early whose points are not worth the rest of their budget."""

    def __init__(self, should_prune: ShouldPrune) -> None:
        self.should_prune = should_prune
        self.reasons: dict[str, str] = {}

    def on_points(self, stack: Stack, points: Sequence[Point]) -> None:
        members = dict(zip(stack.names, stack.members, strict=True))
        for point in points:
            why = self.should_prune(point)
            if why and members[point.run].running:
                members[point.run].progress.state = PRUNED
                self.reasons[point.run] = why if isinstance(why, str) else ""
