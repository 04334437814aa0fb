"""What a run takes, before it is run: its steps are drawn from its real data and priced by the ledger. Needs no weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from isolora import models
from isolora.config import RunConfig, TaskConfig, TrainingConfig
from isolora.cost import step_rates
from isolora.cost.accelerators import HERE, Place
from isolora.cost.flops import TWO_CLASSES, ledger_of
from isolora.cost.memory import kept_peak
from isolora.cost.run_price import Cost
from isolora.cost.time import predicted_seconds
from isolora.errors import ConfigError
from isolora.lean_imports import import_modeling
from isolora.ledger import BatchShape, Ledger
from isolora.runs.device import device
from isolora.runs.document_loader import RunDocuments
from isolora.runs.micro_batches import micro_batches
from isolora.runs.prepared import RunExamples
from isolora.runs.progress import DryRun, Progress, dry_run
from isolora.runs.workspace import Workspace
from isolora.tasks.base import Examples, Task
from isolora.tasks.causal import is_encoder


def cost(config: RunConfig, shape: tuple[int, int] | None = None, place: Place = HERE, whole: bool = False) -> Cost:
    """The cost of the whole run, or of one step of `shape` = (sequences, length) with every next token predicted; `whole`: of as
    many such steps as the run's budget of steps, tokens or FLOPs takes."""
    import_modeling()  # first: asking which models are encoders imports the same and scipy, 0.3 of 2.5 processor seconds
    config = with_task(config)
    if shape is None:
        return _run_cost(config, place)
    rows, length = shape
    positions = models.positions(models.load_architecture(config))
    if length > positions:
        raise ConfigError(f"length: {length} exceeds the model's {positions} positions")
    task, ledger = models.bound_task(config), ledger_of(config)
    parts = micro_batches(np.arange(rows), config.training.accumulation or 1)
    shapes = [typical(task, len(part), length) for part in parts]
    table = np.sum([ledger.flops(shape).table for shape in shapes], axis=0)
    step = Progress(step=1, tokens=sum(shape.tokens for shape in shapes), flops_table=table.tolist())
    count = _steps_of_budget(config.training, step) if whole else 1
    progress = Progress(step=count, tokens=count * step.tokens, flops_table=(count * table).tolist())
    return _cost(config, ledger, DryRun(progress, count * len(parts), shapes[0]), TWO_CLASSES, place)


def _steps_of_budget(training: TrainingConfig, step: Progress) -> int:
    """How many steps of one shape a run's budget takes. Raises ConfigError for one of epochs, whose length its data decide."""
    unit, amount = training.budget
    if unit == "epochs":
        raise ConfigError("training.epochs: with batch= and length= give training.steps, training.tokens or training.flops")
    each = {"steps": 1, "tokens": step.tokens, "flops": step.consumed_flops.total}[unit]
    return math.ceil(amount / each)


def with_task(config: RunConfig) -> RunConfig:
    """The run with a task, where it names none."""
    return config if "task" in config.model_fields_set else config.model_copy(update={"task": natural_task(config)})


def natural_task(config: RunConfig) -> TaskConfig:
    """What a model of this kind is most used for, where nobody says: a cost can be asked for by a model's name alone."""
    architecture = models.load_architecture(config)
    if architecture.is_encoder_decoder:
        return TaskConfig(name="summarization")
    return TaskConfig(name="token-classification" if is_encoder(architecture) else "causal-lm")


def typical(task: Task, rows: int, length: int) -> BatchShape:
    """A step of `rows` full sequences: every next token predicted, or as many labels as the task gives a row; a second sequence
    is as long as the first."""
    second = length if task.second else 0
    every = length if task.second == "source" else (length - 1) * (2 if task.second == "rejected" else 1)
    return BatchShape(rows, length, rows * (every if task.labels_per_row is None else task.labels_per_row), second)


def _run_cost(config: RunConfig, place: Place) -> Cost:
    _, labels, ledger, planned = drawn_on_paper(config, Workspace())
    return _cost(config, ledger, planned, labels, place)


def drawn_on_paper(config: RunConfig, workspace: Workspace) -> tuple[Examples, Sequence[str], Ledger, DryRun]:
    """(a run's training examples, its task's classes, what its steps cost, these steps)."""
    documents = RunDocuments.load(config, workspace.documents)
    labels, positions = documents.task.labels, models.positions(models.load_architecture(config))
    # first: a method that does not fit is told before thousands of texts are tokenised
    ledger = ledger_of(config, labels, workspace.ledgers)
    examples = RunExamples.of(documents, models.load_tokenizer(config), positions)
    return examples.train, labels, ledger, dry_run(config, examples, ledger)


def _cost(config: RunConfig, ledger: Ledger, planned: DryRun, labels: Sequence[str], place: Place) -> Cost:
    progress = planned.progress
    return Cost(
        trainable_parameters=ledger.trainable_parameters,
        all_parameters=ledger.model_parameters + ledger.added_parameters,
        task=config.task.name,
        flops=planned.flops,
        evaluation_flops=planned.evaluation_flops,
        optimiser_flops=progress.step * ledger.optimiser_flops_per_step,
        memory=kept_peak(config, planned.largest, labels, device()),
        tokens=progress.tokens,
        padding_tokens=progress.padding_tokens,
        steps=progress.step,
        duration=predicted_seconds(
            step_rates.stored(config), config.training.precision, planned.flops, planned.micro_batches, place
        ),
    )
