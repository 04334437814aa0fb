"""What a run takes, before it is run: its steps are drawn from its real data and priced by the ledger. Needs no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from isolora import models
from isolora.config import RunConfig, TaskConfig
from isolora.cost.flops import TWO_CLASSES, rehearse
from isolora.cost.memory import Memory, peak
from isolora.cost.time import HERE, Duration, Place, duration
from isolora.errors import ConfigError
from isolora.ledger import PHASES, Flops, Ledger, Shape
from isolora.runs.device import device
from isolora.runs.documents import RunDocuments
from isolora.runs.prepared import RunExamples
from isolora.runs.progress import DryRun, Progress, dry_run
from isolora.tasks.base import Task
from isolora.tasks.causal import is_encoder

PHASE_WORDS = {
    "forward": "forward",
    "backward_inputs": "to inputs",
    "backward_weights": "to weights",
    "recomputation": "again",
    "reference": "reference",
}


@dataclass(frozen=True)
class Cost:
    """FLOPs by phase, memory in bytes, tokens; of one step or of a whole run."""

    trainable_parameters: int
    all_parameters: int
    task: str
    flops: Flops
    optimiser_flops: int
    memory: Memory
    tokens: int
    padding_tokens: int
    steps: int
    duration: Duration | None

    @property
    def peak_memory_bytes(self) -> int:
        return self.memory.total

    def to_json(self) -> dict[str, Any]:
        return {
            "trainable_parameters": self.trainable_parameters,
            "all_parameters": self.all_parameters,
            "trainable_share": self.trainable_parameters / self.all_parameters,
            "flops": self.flops.to_json(),
            "flops_per_token": self.flops.total / self.tokens,
            "flops_per_step": self.flops.total / self.steps,
            "flops_by_group": self.flops.by_group(),
            "optimiser_flops": self.optimiser_flops,
            "peak_memory_bytes": self.peak_memory_bytes,
            "memory": asdict(self.memory),
            "tokens": self.tokens,
            "padding_tokens": self.padding_tokens,
            "steps": self.steps,
            **({} if self.duration is None else self.duration.to_json()),
        }

    def __str__(self) -> str:
        share = 100 * self.trainable_parameters / self.all_parameters
        per_token, per_step = self.flops.total / self.tokens, self.flops.total / self.steps
        return "\n".join(
            [
                f"trainable parameters  {self.trainable_parameters:,} of {self.all_parameters:,}, {share:.4f} %",
                f"FLOPs                 {self.flops.total:.4g} for {self.task}: {per_token:.4g} a token, {per_step:.4g} a step",
                *(f"  {line}" for line in table(self.flops)),
                f"  optimiser             {self.optimiser_flops:.3g} element-wise, in no total",
                f"tokens                {self.tokens:,} and {self.padding_tokens:,} of padding in {self.steps:,} steps",
                f"peak memory           {self._memory()}",
                f"time                  {self.duration or 'unknown here: --calibrate, or --on ACCELERATOR --utilisation SHARE'}",
            ]
        )

    def _memory(self) -> str:
        parts = ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in asdict(self.memory).items())
        room = self.duration.memory_bytes if self.duration else None
        over = "" if room is None or self.memory.total <= room else f"; more than the accelerator's {room / 2**20:,.0f} MiB"
        return f"{self.memory.total / 2**20:,.0f} MiB ({parts}){over}"


def table(flops: Flops) -> list[str]:
    """FLOPs by module group and phase as aligned lines; phases in which nothing is done are left out."""
    phases = [phase for phase in PHASES if getattr(flops, phase)]
    rows = [*flops.by_group().items(), ("total", {phase: getattr(flops, phase) for phase in PHASES})]
    lines = [f"{'':<22}" + "".join(f"{PHASE_WORDS[phase]:>12}" for phase in phases) + f"{'all':>12}{'share':>9}"]
    for group, parts in rows:
        whole = sum(parts.values())
        numbers = "".join(f"{value:>12.3g}" for value in (*(parts[phase] for phase in phases), whole))
        lines.append(f"{group:<22}{numbers}{100 * whole / flops.total:>7.1f} %")
    return lines


def cost(config: RunConfig, shape: tuple[int, int] | None = None, place: Place = HERE) -> Cost:
    """The cost of the whole run, or of one step of `shape` = (sequences, length) with every next token predicted."""
    config = with_task(config)
    if shape is None:
        return _run_cost(config, place)
    rows, length = shape
    positions = models.positions(models.load_architecture(config))
    if length > positions:
        raise ConfigError(f"length: {length} exceeds the model's {positions} positions")
    step, ledger = typical(models.bound_task(config), rows, length), rehearse(config)
    progress = Progress(step=1, tokens=step.tokens, flops_table=ledger.flops(step).table.tolist())
    return _cost(config, ledger, DryRun(progress, 1, step), TWO_CLASSES, place)


def with_task(config: RunConfig) -> RunConfig:
    """The run with a task, where it names none."""
    return config if "task" in config.model_fields_set else config.model_copy(update={"task": natural_task(config)})


def natural_task(config: RunConfig) -> TaskConfig:
    """What a model of this kind is most used for, where nobody says: a cost can be asked for by a model's name alone."""
    architecture = models.load_architecture(config)
    if architecture.is_encoder_decoder:
        return TaskConfig(name="summarization")
    return TaskConfig(name="token-classification" if is_encoder(architecture) else "causal-lm")


def typical(task: Task, rows: int, length: int) -> Shape:
    """A step of `rows` full sequences: every next token predicted, or as many labels as the task gives a row; a second sequence
    is as long as the first."""
    second = length if task.second else 0
    every = length if task.second == "source" else (length - 1) * (2 if task.second == "rejected" else 1)
    return Shape(rows, length, rows * (every if task.labels_per_row is None else task.labels_per_row), second)


def _run_cost(config: RunConfig, place: Place) -> Cost:
    documents, positions = RunDocuments.load(config), models.positions(models.load_architecture(config))
    labels = documents.task.labels
    examples = RunExamples.of(documents, models.load_tokenizer(config), positions)
    ledger = rehearse(config, labels)
    return _cost(config, ledger, dry_run(config, examples.train, ledger), labels, place)


def _cost(config: RunConfig, ledger: Ledger, planned: DryRun, labels: Sequence[str], place: Place) -> Cost:
    progress = planned.progress
    return Cost(
        trainable_parameters=ledger.trainable_parameters,
        all_parameters=ledger.model_parameters + ledger.added_parameters,
        task=config.task.name,
        flops=planned.flops,
        optimiser_flops=progress.step * ledger.optimiser_flops_per_step,
        memory=peak(config, planned.largest, labels, device()),
        tokens=progress.tokens,
        padding_tokens=progress.padding_tokens,
        steps=progress.step,
        duration=duration(config, planned.flops, planned.micro_batches, place),
    )


def shape_of(words: Sequence[str]) -> tuple[tuple[int, int] | None, list[str]]:
    """Take `batch=B` and `length=L` out of a run's key=value words; both or neither."""
    given = dict(word.partition("=")[::2] for word in words if word.startswith(("batch=", "length=")))
    rest = [word for word in words if not word.startswith(("batch=", "length="))]
    if not given:
        return None, rest
    for name in ("batch", "length"):
        if not given.get(name, "").isdecimal() or int(given[name]) < 1:
            raise ConfigError(f"{name}: one step needs batch=B and length=L, both whole numbers of 1 or more")
    return (int(given["batch"]), int(given["length"])), rest
