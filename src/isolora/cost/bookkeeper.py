"""Which products a step consists of, and whose they are: by phase of the step and by the group of weights that they touch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._ops import OpOverloadPacket
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from isolora.cost.layers import LayerTracker, Position
from isolora.cost.no_values import made
from isolora.ledger import GROUPS, PHASES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION_SCORES = GROUPS.index("attention scores")
EXPERTS = re.compile(r"experts|block_sparse_moe|\.gate\.weight$|router")
ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
FORMULAS: dict[Any, Any] = {**flop_registry, torch.ops.aten.addmm_: flop_registry[torch.ops.aten.addmm]}
MATRIX_PRODUCTS = {getattr(torch.ops.aten, name) for name in ("mm", "addmm", "addmm_", "bmm", "baddbmm")}
VALUE_OF, EMBEDDING = torch.ops.aten._local_scalar_dense.default, torch.ops.aten.embedding.default


def _by_operation() -> Iterator[tuple[object, Callable[..., int]]]:
    """(what torch calls, its formula): the operation around it hashes in Python, which takes time at every one."""
    for packet, formula in FORMULAS.items():
        if isinstance(packet, OpOverloadPacket):
            of_shapes = partial(_of_shapes, formula.__wrapped__) if packet in MATRIX_PRODUCTS else formula
            yield from ((getattr(packet, overload)._op, of_shapes) for overload in packet.overloads())


def _of_shapes(formula: Callable[..., int], *args: Tensor, out_val: Tensor, **kwargs: object) -> int:
    """Of a product whose tensors are arguments themselves: torch's search through all that an argument may hold takes a tenth of
    a rehearsal."""
    return int(formula(*[arg.shape for arg in args], **kwargs, out_shape=out_val.shape))


_FORMULAS = dict(_by_operation())


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

    stands_for: how many layers the one in which the tracker sees the step stands for; each of its products counts so often.
    """

    def __init__(
        self, weights: Weights, tracker: LayerTracker | None = None, stands_for: Mapping[Position, int] | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.groups, self.trained = dict(weights.groups), set(weights.trained)
        self.derived: list[Tensor] = []  # kept alive, so that no other tensor takes their identity
        self.tracker, self.stands_for = tracker, stands_for or {}
        self.backward = False
        self.modules_running = 0
        self.untouched = 0
        self.booked = np.zeros((len(PHASES), len(GROUPS)))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and torch's guard against it takes a tenth of a rehearsal

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is VALUE_OF and args[0].is_meta:
            return True if args[0].dtype == torch.bool else 1
        kwargs = kwargs or {}
        out = made(func, args, kwargs, lambda: func(*args, **kwargs), None)
        formula = _FORMULAS.get(func._op)
        if formula is not None:
            flops = formula(*args, **kwargs, out_val=out)
            self._book(flops if self.tracker is None else flops * self._stands_for(self.tracker), args)
        if isinstance(out, Tensor) and func is not EMBEDDING:
            self._derive(args, out)
        return out

    def turn(self) -> None:
        """The backward pass begins."""
        self.backward = True
        if self.tracker is not None:
            self.tracker.turn()

    def _stands_for(self, tracker: LayerTracker) -> int:
        if self.backward:
            tracker.at_node()
        return self.stands_for.get(tracker.position, 1)

    def _book(self, flops: int, args: tuple[object, ...]) -> None:
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

    def _alone(self, args: tuple[object, ...]) -> bool:
        """Whether all tensors are weights; what leads back through their product touches a weight again and is booked there."""
        found = False
        for arg in args:
            if isinstance(arg, Tensor):
                if storage(arg) not in self.groups:
                    return False
                found = True
        return found

    def _derive(self, args: tuple[object, ...], out: Tensor) -> None:
        """What is made of weights alone (a cast, a product of factors, chosen experts) counts as a weight."""
        if self._alone(args) and storage(out) not in self.groups:
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

    def enter(*_: object) -> None:
        books.modules_running += books.backward

    def leave(*_: object) -> None:
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


def weight_groups(model: PreTrainedModel) -> dict[int, str]:
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
