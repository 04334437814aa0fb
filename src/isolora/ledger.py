"""The ledger: exact FLOPs by rehearsal on the `meta` device, with the real frozen and trainable flags.

For a given method on a given base, FLOPs of one step are  rows·(a + b·length + c·length²) + d·labels + e  for every architecture
whose work does not depend on the data: quadratic through attention, linear in the positions at which logits are asked. A handful
of rehearsed steps determine the five coefficients exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from isolora import models, registry
from isolora.config import RunConfig
from isolora.errors import ConfigError
from isolora.methods._base import Attached
from isolora.tasks._base import Batch, Task

PHASES = ("forward", "backward_inputs", "backward_weights", "recomputation")
SHAPES = ((1, 8, 7), (1, 16, 15), (1, 32, 31), (1, 32, 16), (2, 16, 30))
"""(rows, length, labels) of the rehearsed steps: five independent equations for five coefficients."""


@dataclass(frozen=True)
class Flops:
    """FLOPs of a step or a run; a multiply and an add count as two. recomputation: what gradient checkpointing does again."""

    forward: float
    backward_inputs: float
    backward_weights: float
    recomputation: float = 0.0

    @property
    def total(self) -> float:
        return float(sum(getattr(self, phase) for phase in PHASES))

    def __add__(self, other: Flops) -> Flops:
        return Flops(*(getattr(self, phase) + getattr(other, phase) for phase in PHASES))

    def to_json(self) -> dict[str, float]:
        return {**{phase: getattr(self, phase) for phase in PHASES}, "total": self.total}


@dataclass(frozen=True)
class Ledger:
    """Prices of one method on one base.

    coefficients [phases, 5]: FLOPs per row, row·length, row·length², label, step; saved_bytes [5]: activations kept for the
    backward pass, in the same terms.
    """

    coefficients: NDArray[np.float64]
    saved_bytes: NDArray[np.float64]
    trainable_parameters: int
    body_parameters: int
    model_parameters: int

    def flops(self, rows: float, length: float, labels: float, steps: float = 1) -> Flops:
        """One step of `rows` sequences padded to `length` with `labels` labelled positions in all."""
        terms = np.array([rows, rows * length, rows * length**2, labels, steps])
        return Flops(*(float(value) for value in self.coefficients @ terms))

    def peak_memory_bytes(self, rows: float, length: float, labels: float) -> float:
        """Float32 weights, adapter with gradient, two AdamW moments and average, and the activations of one such step.

        A first form: no allocator's slack, no work space of kernels, full attention scores as the unfused kernel keeps them.
        """
        weights = 4 * (self.model_parameters + 5 * self.trainable_parameters)
        return float(weights + self.saved_bytes @ np.array([rows, rows * length, rows * length**2, labels, 1]))


class PhaseCounter(FlopCounterMode):
    """FlopCounterMode that books each product as forward, gradient to inputs or gradient to weights.

    In the backward pass, a plain matrix product with a parameter among its factors carries the gradient to the inputs; one
    without a parameter contracts over tokens and is the gradient to a weight. Batched products and attention are the inputs'.
    """

    PLAIN: ClassVar[set[Any]] = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_}

    def __init__(self, parameters: set[int]) -> None:
        super().__init__(display=False, custom_mapping={torch.ops.aten.addmm_: _addmm_flops})
        self.storages = parameters
        self.backward = False
        self.modules_running = 0
        self.booked = dict.fromkeys(PHASES, 0)

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        if func_packet in self.flop_registry:
            count = self.flop_registry[func_packet](*args, **kwargs, out_val=out)
            self.booked[self._phase(func_packet, args)] += count
        return out

    def _phase(self, func_packet: Any, args: tuple[Any, ...]) -> str:
        if not self.backward:
            return "forward"
        if self.modules_running:  # a module's forward within the backward pass: activations made again
            return "recomputation"
        factors = args[-2:] if func_packet in self.PLAIN else ()
        touches = any(storage(factor) in self.storages for factor in factors)
        return "backward_inputs" if touches or not factors else "backward_weights"


@contextmanager
def watching_modules(counter: PhaseCounter) -> Iterator[None]:
    """Tell the counter while a module's forward runs within the backward pass."""

    def enter(*_: Any) -> None:
        counter.modules_running += counter.backward

    def leave(*_: Any) -> None:
        counter.modules_running -= counter.backward

    # always_call: checkpointing leaves a recomputed forward by an exception as soon as it has what it needs
    handles = (register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Unpadded(TorchDispatchMode):
    """Answers a model's questions about values ("is the mask all ones?"), which `meta` tensors cannot: a rehearsed one is."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return True if args[0].dtype == torch.bool else 1
        return func(*args, **(kwargs or {}))


def _addmm_flops(_: Any, a: Any, b: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """a [m, k] and b [k, n] arrive as shapes."""
    return int(2 * a[0] * a[1] * b[1])


def storage(tensor: Any) -> int:
    return int(tensor.untyped_storage()._cdata) if isinstance(tensor, Tensor) else 0


def rehearse(config: RunConfig) -> Ledger:
    """The ledger of a run's method on its base; needs the base's configuration, no weights."""
    task: Task = registry.load("task", config.task)
    base = models.skeleton(config, task.auto_class)
    method = registry.load("method", config.method.name)
    with _one_line():
        attached = method.attach(base.model, [method.settings(config.method.fields())], [0])
    if config.training.gradient_checkpointing:
        base.model.activation_checkpointing_enable()
    attached.train(True)
    step = _rehearsal(task, attached)
    booked = np.array([step(shape) for shape in SHAPES])
    equations = np.array([[rows, rows * length, rows * length**2, labels, 1] for rows, length, labels in SHAPES], dtype=float)
    coefficients = np.linalg.solve(equations, booked).T
    return Ledger(
        coefficients[:-1], coefficients[-1], attached.trainable_parameters(0), base.body_parameters, base.model_parameters
    )


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except NotImplementedError as failure:
        raise ConfigError(f"model: this architecture cannot be rehearsed without weights: {failure}") from None


def _rehearsal(task: Task, attached: Attached) -> Callable[[tuple[int, int, int]], list[int]]:
    """A function that rehearses one step and returns its FLOPs by phase and the bytes it keeps for the backward pass."""
    storages = {storage(parameter) for parameter in attached.model.parameters()}

    def step(shape: tuple[int, int, int]) -> list[int]:
        counter, kept = PhaseCounter(storages), Kept(storages)
        with Unpadded(), watching_modules(counter), counter:
            with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
                loss = task.loss(attached.model, _blank_batch(*shape))
            counter.backward = True
            loss.objective.backward()
        return [*(counter.booked[phase] for phase in PHASES), sum(kept.sizes.values())]

    return step


class Kept:
    """Sizes in bytes of the storages that autograd keeps, each once; parameters are counted elsewhere."""

    def __init__(self, parameters: set[int]) -> None:
        self.parameters = parameters
        self.sizes: dict[int, int] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        if storage(tensor) not in self.parameters:
            self.sizes[storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor


def _blank_batch(rows: int, length: int, labels: int) -> Batch:
    positions = torch.arange(labels)
    batch = Batch(
        torch.zeros(rows, length, dtype=torch.long), positions, torch.zeros_like(positions), positions // length, torch.ones(rows)
    )
    return batch.to("meta")
