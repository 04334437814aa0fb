"""Parts of a base as one step of autograd each: RMS norms and rotary positions.

Transformers writes them as five to ten element-wise operations, each of which reads and writes whole activations, and autograd
keeps most of them. Here one step of autograd keeps what its backward pass needs and no more. Forward passes take the same
operations in the same order. A part is replaced where its code is the one written in transformers' LLaMA, which many models
share; all others stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


TOLD_BY = {"variance_epsilon", "apply_rotary_pos_emb"}
"""Names of which every part that may be replaced uses one."""


class RMSNorm(torch.autograd.Function):
    """y = w · x / sqrt(mean(x²) + eps) over the last dimension, in float32 within (Zhang and Sennrich 1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        inverse = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        normed = (wide * inverse).to(x.dtype)
        return normed.mul_(weight) if normed.dtype == weight.dtype else normed * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        wide, outer = x.float(), gradients[0].float()
        scaled = outer * weight
        along = (scaled * wide).mean(-1, keepdim=True).mul_(inverse.square())
        x_gradient = scaled.addcmul_(wide, along, value=-1).mul_(inverse).to(x.dtype)
        if not ctx.needs_input_grad[1]:
            return x_gradient, None, None
        weight_gradient = (outer * wide).mul_(inverse).flatten(0, -2).sum(0)
        return x_gradient, weight_gradient.to(weight.dtype), None


class Rotary(torch.autograd.Function):
    """Queries or keys [rows, heads, length, width] turned by their positions (Su et al. 2104.09864).

    cos, sin: of a shape that spreads to theirs.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return turned(x, cos, -sin, sin)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        back = sin.roll(sin.shape[-1] // 2, -1)  # the sine that a half was turned by lies in the other half
        return turned(gradients[0], cos, back, -back), None, None


def turned(x: Tensor, cos: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """x · cos, plus the other half of x times `first` in the first half of the last dimension, `second` in the second half."""
    half = x.shape[-1] // 2
    y = x * cos
    y[..., :half].addcmul_(x[..., half:], first[..., :half])
    y[..., half:].addcmul_(x[..., :half], second[..., half:])
    return y


def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """In the place of transformers' `apply_rotary_pos_emb`."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return Rotary.apply(q, cos, sin), Rotary.apply(k, cos, sin)  # type: ignore[no-untyped-call]


def fuse(model: PreTrainedModel) -> None:
    """Replace what is known, in place."""
    for module in model.modules():
        if replacement := _replacement(module):
            module.forward = MethodType(replacement, module)


def _replacement(module: nn.Module) -> Callable[..., Any] | None:
    """What a module should do in place of its class's `forward`; None where it stays as it is."""
    forward = type(module).forward
    if not isinstance(forward, FunctionType) or "forward" in vars(module) or not TOLD_BY & set(forward.__code__.co_names):
        return None
    from transformers.models.llama import modeling_llama as llama  # 60 ms that a BERT has no use for

    if same_code(forward, llama.LlamaRMSNorm.forward):
        return _norm
    if "apply_rotary_pos_emb" in forward.__code__.co_names and _turns_like_llama(forward.__globals__):
        return with_globals(forward, apply_rotary_pos_emb=rotary)
    return None


def _turns_like_llama(names: Mapping[str, object]) -> bool:
    """Whether a module's own functions for rotary positions are LLaMA's. names: its globals."""
    from transformers.models.llama import modeling_llama as llama

    return all(same_code(names.get(own.__name__), own) for own in (llama.apply_rotary_pos_emb, llama.rotate_half))


def _norm(module: Any, hidden_states: Tensor) -> Tensor:
    return RMSNorm.apply(hidden_states, module.weight, module.variance_epsilon)  # type: ignore[no-untyped-call,no-any-return]


def same_code(function: object, other: FunctionType) -> bool:
    """Whether two functions were compiled from the same statements; docstrings and annotations aside."""
    return isinstance(function, FunctionType) and _statements(function.__code__) == _statements(other.__code__)


def _statements(code: CodeType) -> tuple[Any, ...]:
    texts = [value for value in code.co_consts if not isinstance(value, str)]
    return code.co_code, code.co_names, code.co_varnames, texts


def with_globals(function: FunctionType, **others: object) -> FunctionType:
    """The same function, which sees these in place of its module's own."""
    seen = {**function.__globals__, **others}
    copied = FunctionType(function.__code__, seen, function.__name__, function.__defaults__, function.__closure__)
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied
