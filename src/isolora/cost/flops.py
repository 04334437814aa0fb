"""Rehearsal: a step's products are booked while it runs on the `meta` device, with the real frozen and trainable flags.

Nothing is computed and no weights are needed. Work is a polynomial in the batch's shape, so that a handful of rehearsed steps
gives the ledger's coefficients exactly, for any architecture and any method.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from isolora import models, registry
from isolora.config import RunConfig, TrainingConfig, content_hash
from isolora.cost.layers import Kept, Layers, find_layers, shortened
from isolora.errors import ConfigError
from isolora.ledger import GROUPS, PHASES, Ledger, Shape
from isolora.methods.base import Attached
from isolora.methods.heads import head_names
from isolora.runs.prepared import attach as attach_to
from isolora.tasks.base import Batch, Task

SHAPES = tuple(Shape(*sizes) for sizes in ((1, 8, 7), (1, 16, 15), (1, 32, 31), (1, 32, 16), (2, 16, 30)))
"""Rehearsed steps: five independent equations for the five terms of a single sequence."""
PAIR_SHAPES = tuple(
    Shape(*sizes)
    for sizes in (
        *((1, 8, 8, 16), (1, 16, 16, 16), (1, 32, 32, 16), (1, 32, 16, 16)),
        *((1, 8, 8, 32), (1, 8, 8, 48), (1, 16, 16, 32), (2, 16, 32, 16)),
    )
)
"""The same for the eight terms of two sequences."""
ATTENTION_SCORES = GROUPS.index("attention scores")
TWO_CLASSES = ("0", "1")
"""Where nobody has looked into the data yet."""
EXPERTS = re.compile(r"experts|block_sparse_moe|\.gate\.weight$|router")
ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
FORMULAS: dict[Any, Any] = {**flop_registry, torch.ops.aten.addmm_: flop_registry[torch.ops.aten.addmm]}


def rehearse(config: RunConfig, labels: Sequence[str] = TWO_CLASSES, whole: bool = False) -> Ledger:
    """The ledger of a run's method on its base; needs the base's configuration, no weights.

    labels: the task's classes; whole: run every layer, where else a few of those that are alike stand for all.
    """
    task = models.bound_task(config, labels)
    base = models.skeleton(config, task)
    experts_by_choice(base.model)
    if needs_values(config):
        give_values(base.model)
    groups = weight_groups(base.model)
    replaced = sum(
        p.numel() for name in head_names(base.model) * task.new_head for p in base.model.get_submodule(name).parameters()
    )
    attached = attach(config, task, base.model)
    rehearsal = Rehearsal(task, attached, groups)
    booked = rehearsal.all_layers() if whole else rehearsal.by_layers()
    terms = np.array([shape.terms for shape in _shapes(task)])
    coefficients = np.rint(np.linalg.lstsq(terms, booked.reshape(len(terms), -1))[0])  # FLOPs are whole; the solver rounds
    table = coefficients.T.reshape(len(PHASES), len(GROUPS), -1)
    added = sum(p.numel() for p in attached.model.parameters() if storage(p) not in groups) - replaced
    return Ledger(table, attached.trainable_parameters(0), base.body_parameters, base.model_parameters, added)


def needs_values(config: RunConfig) -> bool:
    """Whether the run's method computes with the base's weights when it is attached."""
    return bool(registry.load("method", config.method.name).needs_weights)


def experts_by_choice(model: Any) -> None:
    """Mixtures of experts: every token takes its top-k experts, whichever they are, one product each; no routing by values."""
    if model._can_set_experts_implementation():
        model.set_experts_implementation("batched_mm")


def give_values(model: Any) -> None:
    """Arbitrary weights on the CPU, for methods that look at them; what they cost does not depend on them."""
    model.to_empty(device="cpu")
    for buffer in model.buffers():
        buffer.zero_()
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.02)
    model.tie_weights()


def attach(config: RunConfig, task: Task, model: Any) -> Attached:
    """The run's method on a model without weights, ready for a training step."""
    initialisers = nullcontext() if needs_values(config) else models.without_initialisers()
    try:
        known_tokens = model.get_input_embeddings().weight.shape[0]
        with initialisers:
            attached = attach_to([config.model_copy(update={"seed": 0})], model, task.new_head, known_tokens)
    except NotImplementedError as failure:
        raise ConfigError(f"model: this architecture cannot be rehearsed without weights: {failure}") from None
    if config.training.gradient_checkpointing:
        model.activation_checkpointing_enable()
    attached.train(True)
    return attached


def _shapes(task: Task) -> tuple[Shape, ...]:
    shapes = PAIR_SHAPES if task.second else SHAPES
    per_row = task.labels_per_row
    return shapes if per_row is None else tuple(Shape(s.rows, s.length, per_row * s.rows, s.second) for s in shapes)


class Rehearsal:
    """Steps of a method on a base without weights. groups: those of the base's weights, by storage."""

    def __init__(self, task: Task, attached: Attached, groups: dict[int, str]) -> None:
        self.task, self.attached, self.groups = task, attached, groups
        self.weights = Weights.of(attached.model, groups)  # of all layers, for what a method computes from weights alone

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
            alike = np.array_equal(booked[0, 0], self._forward(_shapes(self.task)[0]))
        except Exception:  # a model that counts its layers itself, or looks one up by its number, is rehearsed as it is
            alike = False
        return booked if alike else self.all_layers()

    def _extended(self, layers: Sequence[Layers]) -> NDArray[np.float64]:
        """The model with its special layers alone, and what one layer more of each kind adds, as often as there are such."""
        fewest = {each.name: sorted(each.special) for each in layers}
        base = total = self._with(layers, fewest)
        for each in layers:
            for numbers in each.counts().values():
                one_more = {**fewest, each.name: sorted({*fewest[each.name], numbers[0]})}
                total = total + len(numbers) * (self._with(layers, one_more) - base)
        return total

    def _with(self, layers: Sequence[Layers], kept: Kept) -> NDArray[np.float64]:
        with shortened(self.attached.model, layers, kept):
            return self.all_layers()

    def _forward(self, shape: Shape) -> NDArray[np.float64]:
        """FLOPs [groups] of a forward pass alone, through every layer."""
        books = Bookkeeper(self.weights)
        with torch.no_grad(), self._products(), books, self.attached.rows([(0, 0, -1)]):
            self.task.loss(self.attached.model, task_batch(self.task, shape, self.device))
            self.attached.extra_loss()
        forward: NDArray[np.float64] = books.booked[PHASES.index("forward")]
        return forward

    def _step(self, shape: Shape) -> NDArray[np.float64]:
        """FLOPs [phases, groups] of one step."""
        task, attached, books = self.task, self.attached, Bookkeeper(self.weights)
        batch = task_batch(task, shape, self.device)
        with self._products(), books:
            if task.uses_reference:
                with torch.no_grad(), attached.rows(()):
                    task.loss(attached.model, batch)
                books.booked[PHASES.index("reference")] = books.booked[0]
                books.booked[:-1] = 0
            with watching_modules(books), attached.rows([(0, 0, -1)]):
                loss = task.loss(attached.model, batch)
                extra = attached.extra_loss()
                books.backward = True
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
    kinds = sum(len(each.counts()) for each in layers)
    special = sum(len(each.special) for each in layers)
    return 0 < (1 + kinds) * special + kinds < sum(map(len, layers))


@dataclass(frozen=True)
class Weights:
    """Storages of a model's weights. groups: storage -> group in the ledger; trained: those that receive a gradient."""

    groups: dict[int, str]
    trained: set[int]

    @classmethod
    def of(cls, model: nn.Module, groups: dict[int, str]) -> Weights:
        """groups: those of the base's weights; whatever else the model holds has been added by the method."""
        held = (*model.parameters(), *model.buffers())  # some methods keep frozen projections as buffers
        every = {storage(tensor): groups.get(storage(tensor), "adapter") for tensor in held}
        return cls(every, {storage(weight) for weight in model.parameters() if weight.requires_grad})


class Bookkeeper(TorchDispatchMode):
    """Books the FLOPs of every product by phase and by the group of the weights that it touches.

    A gradient to a weight costs what the weight's own product cost in the forward pass; the rest of the backward pass carries
    the gradient to the inputs. Questions about values ("is the mask all ones?"), which `meta` tensors cannot answer, are
    answered for batches without padding.
    """

    def __init__(self, weights: Weights) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.groups, self.trained = dict(weights.groups), set(weights.trained)
        self.derived: list[Tensor] = []  # kept alive, so that no other tensor takes their identity
        self.backward = False
        self.modules_running = 0
        self.untouched = 0
        self.booked = np.zeros((len(PHASES), len(GROUPS)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return True if args[0].dtype == torch.bool else 1
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in FORMULAS:
            self._book(FORMULAS[func._overloadpacket](*args, **(kwargs or {}), out_val=out), args)
        if isinstance(out, Tensor) and func is not torch.ops.aten.embedding.default:
            self._derive(args, out)
        return out

    def _book(self, flops: int, args: tuple[Any, ...]) -> None:
        weight = next((key for key in map(storage, reversed(args)) if key in self.groups), None)
        group = ATTENTION_SCORES if weight is None else GROUPS.index(self.groups[weight])
        if not self.backward:
            self.booked[PHASES.index("forward"), group] += flops
            self.booked[PHASES.index("backward_weights"), group] += flops * (weight in self.trained and not self._alone(args))
        elif self.modules_running:  # a module's forward within the backward pass: activations made again
            self.booked[PHASES.index("recomputation"), group] += flops
        elif weight is not None:
            self.booked[PHASES.index("backward_inputs"), group] += flops
        else:
            self.untouched += flops

    def _alone(self, args: tuple[Any, ...]) -> bool:
        """Whether all tensors are weights; what leads back through their product touches a weight again and is booked there."""
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        return bool(tensors) and all(storage(tensor) in self.groups for tensor in tensors)

    def _derive(self, args: tuple[Any, ...], out: Tensor) -> None:
        """What is made of weights alone (a cast, a product of factors, chosen experts) counts as a weight."""
        if storage(out) not in self.groups and self._alone(args):
            tensors = [arg for arg in args if isinstance(arg, Tensor)]
            self.groups[storage(out)] = self.groups[storage(tensors[0])]
            self.trained |= {storage(out)} if any(storage(tensor) in self.trained for tensor in tensors) else set()
            self.derived.append(out)

    def closed(self) -> NDArray[np.float64]:
        """The books of a finished step: products without weights are gradients to weights, and attention's for all the rest."""
        attention = self.untouched - self.booked[PHASES.index("backward_weights")].sum()
        self.booked[PHASES.index("backward_inputs"), ATTENTION_SCORES] += attention
        return self.booked


@contextmanager
def watching_modules(books: Bookkeeper) -> Iterator[None]:
    """Tell the books while a module's forward runs within the backward pass."""

    def enter(*_: Any) -> None:
        books.modules_running += books.backward

    def leave(*_: Any) -> None:
        books.modules_running -= books.backward

    # always_call: checkpointing leaves a recomputed forward by an exception as soon as it has what it needs
    handles = (register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def storage(tensor: Any) -> int:
    """Identity of a tensor's memory; 0 for what has none of its own, as sparse tensors do."""
    dense = isinstance(tensor, Tensor) and tensor.layout == torch.strided
    return int(tensor.untyped_storage()._cdata) if dense else 0


def weight_groups(model: Any) -> dict[int, str]:
    """Storage of each of the base's weights and buffers -> its group in the ledger."""
    body, head = model.base_model, model.get_output_embeddings()
    prefix = next(name for name, module in model.named_modules() if module is body)
    found = {storage(buffer): GROUPS[ATTENTION_SCORES] for buffer in model.buffers()}  # frequencies of rotary positions
    found |= {storage(weight): _group(name, name.startswith(prefix)) for name, weight in model.named_parameters()}
    found |= {storage(layer.weight): "embedding" for layer in model.modules() if isinstance(layer, nn.Embedding)}
    return found if head is None else found | {storage(head.weight): "head"}


def _group(name: str, in_body: bool) -> str:
    """By the field's own names for modules: `attn`, `SelfAttention`, `experts`; a router belongs to its experts."""
    if not in_body or "pooler" in name:
        return "head"
    if EXPERTS.search(name):
        return "experts"
    return "attention projections" if ATTENTION.search(name) else "feed-forward"


def task_batch(task: Task, shape: Shape, device: torch.device | str) -> Batch:
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
