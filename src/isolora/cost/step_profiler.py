"""What one real step does: its FLOPs operator by operator, and the memory that it takes beside what is held between steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from isolora.cost.bookkeeper import FORMULAS
from isolora.cost.storage import StorageTracker
from isolora.json_types import JsonObject

if TYPE_CHECKING:
    from isolora.training.stack import Stack


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> int:
    """Scores and their use as weights; all [rows, heads, length, width]."""
    return _scores(query, key) * (query.shape[3] + value.shape[3])


def _attention_backward(_: Tensor, query: Tensor, key: Tensor, value: Tensor, *__: object, **___: object) -> int:
    """The products that the gradients asked for need; a fused kernel gives all of them and makes the scores again."""
    towards_scores = query.requires_grad or key.requires_grad
    values = value.shape[3] * (value.requires_grad + towards_scores)
    return _scores(query, key) * (values + query.shape[3] * (query.requires_grad + key.requires_grad))


def _scores(query: Tensor, key: Tensor) -> int:
    return 2 * query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]


def _grouped_product(left: Tensor, right: Tensor, *_: object, **__: object) -> int:
    """Rows [rows, in] by experts [experts, in, out], or a gradient to these: every row meets one expert."""
    return 2 * left.numel() * right.shape[-1]


def _quantised_product(x: Tensor, _: Tensor, shape: Sequence[int], *__: object, **___: object) -> int:
    """x [..., in] by a packed weight whose shape is (out, in)."""
    return 2 * x.numel() * shape[0]


def _int8_product(x: Tensor, _: Tensor, weight: Tensor, *__: object, **___: object) -> int:
    """x [..., in], of which the second argument is the rounded part, by weight [out, in]."""
    return 2 * x.numel() * weight.shape[0]


aten = torch.ops.aten
FUSED_BACKWARD = (
    aten._scaled_dot_product_flash_attention_for_cpu_backward,
    aten._scaled_dot_product_flash_attention_backward,
    aten._scaled_dot_product_efficient_attention_backward,
    aten._scaled_dot_product_cudnn_attention_backward,
)
REAL_FORMULAS: JsonObject = {
    **{str(operator): formula for operator, formula in FORMULAS.items()},
    str(aten._scaled_dot_product_flash_attention_for_cpu): _attention,
    **dict.fromkeys(map(str, FUSED_BACKWARD), _attention_backward),
    str(aten._grouped_mm): _grouped_product,
    "bitsandbytes.gemm_4bit": _quantised_product,
    "bitsandbytes.int8_mixed_scaled_mm": _int8_product,
}
"""By name, since bitsandbytes need not be there: torch's own formulas, and those of operators that real steps use and torch 2.13
takes for nothing or counts with what only the fused kernel does."""


class StepProfiler(StorageTracker):
    """Memory by the allocator on a GPU, storage by storage on a CPU. Torch's FlopCounterMode would keep alive what gradient
    checkpointing gives up."""

    def __init__(self, stack: Stack) -> None:
        super().__init__("cpu")
        self.on_gpu = stack.accelerator.device.type == "cuda"
        self.flops = 0
        self.held = [*stack.attached.model.parameters(), *stack.attached.model.buffers()]
        for member in stack.members:
            self.held += member.optimizer.held_tensors()

    def __enter__(self) -> StepProfiler:
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            self.allocated = torch.cuda.memory_allocated()
        for tensor in self.held:
            self.follow(tensor)
        self.begin()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if formula := REAL_FORMULAS.get(str(func._overloadpacket)):
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out

    @property
    def bytes(self) -> int:
        return torch.cuda.max_memory_allocated() - self.allocated if self.on_gpu else self.peak
