"""Rehearsal: a step's products are booked while it runs on the `meta` device, with the real frozen and trainable flags.

Nothing is computed and no weights are needed. Work is a polynomial in the batch's shape, so that a handful of rehearsed steps
gives the ledger's coefficients exactly, for any architecture and any method.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from isolora import models, registry
from isolora.config import RunConfig, TrainingConfig, content_hash
from isolora.cost import kept as disk
from isolora.cost.bookkeeper import Bookkeeper, Weights, storage, watching_modules, weight_groups
from isolora.cost.idle_targets import leaves, refuse_idle_targets
from isolora.cost.layers import Layers, LayerTracker, Position, find_layers, shortened
from isolora.cost.no_values import refused_in_one_line
from isolora.ledger import GROUPS, PHASES, BatchShape, Ledger
from isolora.methods.base import Attached
from isolora.methods.recomputation import enable_recomputation
from isolora.methods.trained_heads import head_names
from isolora.runs.prepared import attach as attach_to
from isolora.tasks.base import Batch, Task
from isolora.tasks.returned import checked_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHAPES = tuple(BatchShape(*sizes) for sizes in ((1, 8, 7), (1, 16, 15), (1, 32, 31), (1, 32, 16), (2, 16, 30)))
"""Rehearsed steps: five independent equations for the five terms of a single sequence."""
PAIR_SHAPES = tuple(
    BatchShape(*sizes)
    for sizes in (
        *((1, 8, 8, 16), (1, 16, 16, 16), (1, 32, 32, 16), (1, 32, 16, 16)),
        *((1, 8, 8, 32), (1, 8, 8, 48), (1, 16, 16, 32), (2, 16, 32, 16)),
    )
)
"""The same for the eight terms of two sequences."""
TWO_CLASSES = ("0", "1")
"""Where nobody has looked into the data yet."""


def rehearse(config: RunConfig, labels: Sequence[str] = TWO_CLASSES, whole: bool = False) -> Ledger:
    """The ledger of a run's method on its base; needs the base's configuration, no weights.

    labels: the task's classes; whole: run every layer, where else a few of those that are alike stand for all.
    """
    with refused_in_one_line(config.model):
        return _rehearsed(config, models.bound_task(config, labels), whole)


def _rehearsed(config: RunConfig, task: Task, whole: bool) -> Ledger:
    base = models.skeleton(config, task)
    experts_by_choice(base.model)
    if needs_values(config):
        give_values(base.model)
    groups = weight_groups(base.model)
    replaced = sum(
        p.numel() for name in head_names(base.model) * task.new_head for p in base.model.get_submodule(name).parameters()
    )
    before = leaves(base.model)
    attached = attach_for_rehearsal(config, task, base.model)
    rehearsal = Rehearsal(task, attached, groups)
    refuse_idle_targets(config.method, before, attached.model, rehearsal.forward)
    booked = rehearsal.all_layers() if whole else rehearsal.by_layers()
    terms = np.array([shape.terms for shape in _shapes(task)])
    coefficients = np.rint(np.linalg.lstsq(terms, booked.reshape(len(terms), -1))[0])  # FLOPs are whole; the solver rounds
    table = coefficients.T.reshape(len(PHASES), len(GROUPS), -1)
    added = sum(p.numel() for p in attached.model.parameters() if storage(p) not in groups) - replaced
    return Ledger(table, attached.trainable_parameters(0), base.body_parameters, base.model_parameters, added)


def needs_values(config: RunConfig) -> bool:
    """Whether the run's method computes with the base's weights when it is attached."""
    return bool(registry.load_plug_in("method", config.method.name).needs_weights)


def ledger_of(config: RunConfig, labels: Sequence[str] = TWO_CLASSES, known: dict[str, Ledger] | None = None) -> Ledger:
    """As `rehearse`, kept on the disk, and in `known`, for all runs that differ in nothing that decides it: data, budget, seed
    do not."""
    known = {} if known is None else known
    own = {"model", "task", "method", "trust_remote_code", "new_tokens"}
    training = TrainingConfig(tokens=1, gradient_checkpointing=config.training.gradient_checkpointing)
    decided_by = RunConfig(**{key: getattr(config, key) for key in own}, training=training)
    key = content_hash([decided_by.identity(), models.fingerprint(config.model), labels])
    if key not in known:
        known[key] = _from_disk(decided_by, labels)
    return known[key]


def _from_disk(config: RunConfig, labels: Sequence[str]) -> Ledger:
    key = disk.price_key(config, len(labels))
    found = disk.read_kept("ledgers", key)
    if found is not None:
        return Ledger.from_json(found)
    ledger = rehearse(config, labels)
    disk.write_kept("ledgers", key, ledger.to_json())
    return ledger


def experts_by_choice(model: PreTrainedModel) -> None:
    """Mixtures of experts: every token takes its top-k experts, whichever they are, one product each; no routing by values."""
    if model._can_set_experts_implementation():
        model.set_experts_implementation("batched_mm")


def give_values(model: PreTrainedModel) -> None:
    """Arbitrary weights on the CPU, for methods that look at them; what they cost does not depend on them."""
    model.to_empty(device="cpu")
    for buffer in model.buffers():
        buffer.zero_()
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.02)
    model.tie_weights()


def attach_for_rehearsal(config: RunConfig, task: Task, model: PreTrainedModel) -> Attached:
    """The run's method on a model, ready for a training step; on one without weights nothing is drawn."""
    weight = model.get_input_embeddings().weight
    known_tokens, has_values = weight.shape[0], not (weight.is_meta or isinstance(weight, FakeTensor))
    with nullcontext() if has_values else models.without_initialisers():
        attached = attach_to([config.model_copy(update={"seed": 0})], model, task.new_head, known_tokens)
    if config.training.gradient_checkpointing:
        enable_recomputation(model)
    attached.train(True)
    return attached


def _shapes(task: Task) -> tuple[BatchShape, ...]:
    shapes = PAIR_SHAPES if task.second else SHAPES
    per_row = task.labels_per_row
    return shapes if per_row is None else tuple(BatchShape(s.rows, s.length, per_row * s.rows, s.second) for s in shapes)


class Rehearsal:
    """Steps of a method on a base without weights. groups: those of the base's weights, by storage."""

    def __init__(self, task: Task, attached: Attached, groups: dict[int, str]) -> None:
        self.task, self.attached, self.groups = task, attached, groups
        self.weights = Weights.of(attached.model, groups)  # of all layers, for what a method computes from weights alone
        self.tracker: LayerTracker | None = None
        self.stands_for: dict[Position, int] = {}

    def all_layers(self) -> NDArray[np.float64]:
        """FLOPs [shapes, phases, groups] of one step of each shape."""
        return np.array([self._step(shape) for shape in _shapes(self.task)])

    def by_layers(self) -> NDArray[np.float64]:
        """The same from a few layers, where the model is a chain of them."""
        layers = find_layers(self.attached.model)
        if not saves_work(layers):
            return self.all_layers()
        try:
            booked = self._extended(layers)
            alike = np.array_equal(booked[0, 0], self.forward())
        except Exception:  # a model that counts its layers itself, or looks one up by its number, is rehearsed as it is
            alike = False
        return booked if alike else self.all_layers()

    def _extended(self, layers: Sequence[Layers]) -> NDArray[np.float64]:
        """The model with its special layers and one of each kind, which counts as often as there are such."""
        few = {each.name: each.stand_ins() for each in layers}
        kept = {name: list(numbers) for name, numbers in few.items()}
        self.stands_for = {(name, number): count for name, numbers in few.items() for number, count in numbers.items()}
        self.tracker = LayerTracker()
        try:
            with shortened(self.attached.model, layers, kept), self.tracker.watching(layers, kept):
                return self.all_layers()
        finally:
            self.tracker = None

    def forward(self) -> NDArray[np.float64]:
        """FLOPs [groups] of a forward pass of the first shape alone, through every layer."""
        books = Bookkeeper(self.weights)
        with torch.no_grad(), self._products(), books, self.attached.rows([(0, 0, -1)]):
            batch = task_batch(self.task, _shapes(self.task)[0], self.device)
            checked_loss(self.task, self.task.loss(self.attached.model, batch), len(batch.lengths))
            self.attached.extra_loss()
        forward: NDArray[np.float64] = books.booked[PHASES.index("forward")]
        return forward

    def _step(self, shape: BatchShape) -> NDArray[np.float64]:
        """FLOPs [phases, groups] of one step."""
        task, attached, books = self.task, self.attached, Bookkeeper(self.weights, self.tracker, self.stands_for)
        batch = task_batch(task, shape, self.device)
        if self.tracker is not None:
            self.tracker.begin()
        with self._products(), books:
            if task.uses_reference:
                with torch.no_grad(), attached.rows(()):
                    task.loss(attached.model, batch)
                books.booked[PHASES.index("reference")] = books.booked[0]
                books.booked[:-1] = 0
            with watching_modules(books), attached.rows([(0, 0, -1)]):
                loss = checked_loss(task, task.loss(attached.model, batch), len(batch.lengths))
                extra = attached.extra_loss()
                books.turn()
                (loss.objective if extra is None else loss.objective + extra).backward()
        return books.closed()

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.attached.model.parameters()).device
        return device

    def _products(self) -> AbstractContextManager[Any]:
        """torch counts nothing for the CPU's fused attention, so there it is done in plain products."""
        return sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else nullcontext()


def saves_work(layers: Sequence[Layers]) -> bool:
    """Whether fewer layers run with like ones left out than in all."""
    return 0 < sum(len(each.stand_ins()) for each in layers) < sum(map(len, layers))


def task_batch(task: Task, shape: BatchShape, device: torch.device | str) -> Batch:
    """A batch of that shape, all zeros, without padding; a rejected answer takes half of the labels."""
    labels = int(shape.labels) // (2 if task.second == "rejected" else 1)
    second = None
    if task.second:
        second = _blank(int(shape.rows), int(shape.second), labels if task.second == "rejected" else 0)
    batch = _blank(int(shape.rows), int(shape.length), labels)
    values = torch.zeros(int(shape.rows), task.value_columns) if task.value_columns else None
    return replace(batch, second=second, values=values).to(device)


def _blank(rows: int, length: int, labels: int) -> Batch:
    """The first labels of every row, as evenly as they go."""
    each = torch.arange(labels)
    positions = (each % rows) * length + each // rows
    zeros = torch.zeros_like(positions)
    return Batch(
        torch.zeros(rows, length, dtype=torch.long), positions, zeros, each % rows, torch.ones(rows), torch.full((rows,), length)
    )
