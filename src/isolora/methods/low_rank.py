"""Low-rank updates of frozen layers, several members side by side in one batch (LoRA, Hu et al. 2106.09685)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from isolora.frozen_products import frozen_product
from isolora.methods.base import Span

FEWEST_COLUMNS = 16
"""Products with fewer columns are made with rows and columns exchanged: MKL is 1.5 to 4 times as quick at them (rank 8)."""

ROWS_OF_TOKENS: ContextVar[Tensor | None] = ContextVar("ROWS_OF_TOKENS", default=None)


@contextmanager
def tokens_of(rows: Tensor) -> Iterator[None]:
    """Within the context, layers see single tokens of a batch, one after the other; rows [tokens], rising: where each is from."""
    reset = ROWS_OF_TOKENS.set(rows)
    try:
        yield
    finally:
        ROWS_OF_TOKENS.reset(reset)


class RowsMixed(RuntimeError):
    """A layer's input has other rows than the batch, so that nobody knows which are whose."""


class Rows:
    """Which rows of the batch belong to which member, and what each drops there; shared by all layers of one model."""

    def __init__(self, generators: Sequence[torch.Generator] = ()) -> None:
        self.spans: Sequence[Span] = ((0, 0, -1),)
        self.generators = list(generators)
        self.dropout_seeds: dict[int, int] | None = None

    def dropout_seed(self, member: int) -> int:
        """One draw for each member and micro-batch, so that layers recomputed in the backward pass drop the same again."""
        seeds = {} if self.dropout_seeds is None else self.dropout_seeds
        if member not in seeds:
            seeds[member] = int(torch.randint(2**62, (), generator=self.generators[member]))
        return seeds[member]

    @contextmanager
    def assigned(self, spans: Sequence[Span]) -> Iterator[None]:
        before, self.spans, self.dropout_seeds = self.spans, spans, {}
        try:
            yield
        finally:
            self.spans, self.dropout_seeds = before, None

    def token_spans(self, rows: int, tokens: int) -> list[Span]:
        """Spans over the flattened tokens of an input with `rows` batch rows and `tokens` tokens in all."""
        if not self.spans:  # the bare base
            return []
        if self.spans[0][2] == -1:  # one member owns every row, however the model has reshaped them
            return [(self.spans[0][0], 0, tokens)]
        if (of_tokens := ROWS_OF_TOKENS.get()) is not None:
            stops = [0, *of_tokens.bincount(minlength=self.spans[-1][2]).cumsum(0).tolist()]
            return [(member, stops[start], stops[stop]) for member, start, stop in self.spans]
        if self.spans[-1][2] != rows:
            raise RowsMixed("a stack needs layers that keep the batch as their first dimension")
        length = self.row_length(rows, tokens)
        return [(member, start * length, stop * length) for member, start, stop in self.spans]

    @staticmethod
    def row_length(rows: int, tokens: int) -> int:
        """Tokens in each row of an input with `rows` batch rows and `tokens` tokens in all; single tokens are rows each."""
        return tokens // rows if ROWS_OF_TOKENS.get() is None else 1


class LowRankUpdate(torch.autograd.Function):
    """y[rows of k] += scaling_k · x[rows of k] A_kᵀ B_kᵀ, in place, with the thin products done once per member.

    Shapes: y [tokens, out], x [tokens, in], A_k [rank_k, in], B_k [out, rank_k].
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, spans: list[Span], scalings: list[float], *factors: Tensor) -> Tensor:
        with _precision_of(y):
            inner = _add_updates(y, x, spans, scalings, factors)
        ctx.mark_dirty(y)
        ctx.save_for_backward(x, *factors, *inner)
        ctx.spans, ctx.scalings = spans, scalings
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | list[Span] | list[float] | None, ...]:
        (gradient,) = gradients
        x, *saved = ctx.saved_tensors  # asked for once: recomputed tensors are handed out a single time
        x_gradient = None
        if ctx.needs_input_grad[1]:
            all_rows = sum(stop - start for _, start, stop in ctx.spans) == len(x)
            x_gradient = torch.empty_like(x) if all_rows else torch.zeros_like(x)
        return gradient, x_gradient, None, None, *_gradients(ctx, gradient, x, saved, x_gradient, kept=0)


def _precision_of(y: Tensor) -> AbstractContextManager[object]:
    """Within, products are taken in the precision of y, which a quantised base chooses for itself, and not in autocast's."""
    kind = y.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


class AdaptedProduct(torch.autograd.Function):
    """y = x Wᵀ + bias and its low-rank updates as one step: the gradient to x is one sum in place of two that autograd adds.

    Shapes: x [tokens, in], weight [out, in], bias [out] or None, the rest as in `LowRankUpdate`; weight and bias are frozen.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, spans: list[Span], scalings: list[float], *factors: Tensor
    ) -> Tensor:
        y = frozen_product(x, weight, bias)
        inner = _add_updates(y, x, spans, scalings, factors)
        ctx.save_for_backward(x, weight, *factors, *inner)
        ctx.spans, ctx.scalings = spans, scalings
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, weight, *saved = ctx.saved_tensors
        x_gradient = frozen_product(gradient, weight.T) if ctx.needs_input_grad[0] else None
        return x_gradient, None, None, None, None, *_gradients(ctx, gradient, x, saved, x_gradient, kept=1)


def _add_updates(y: Tensor, x: Tensor, spans: list[Span], scalings: list[float], factors: Sequence[Tensor]) -> list[Tensor]:
    """Adds each member's update to its rows of y; returns x A_kᵀ."""
    inner = []
    for (_, start, stop), scaling, a, b in zip(spans, scalings, factors[::2], factors[1::2], strict=True):
        inner.append(_thin(x[start:stop], a.T))
        y[start:stop].addmm_(inner[-1], b.T, alpha=scaling)
    return inner


def _gradients(ctx: Any, outer: Tensor, x: Tensor, saved: list[Tensor], x_gradient: Tensor | None, kept: int) -> list[Tensor]:
    """Gradients to the factors; adds what leads to x to `kept` times x_gradient. saved: factors and x A_kᵀ of all spans."""
    count, found = len(ctx.spans), []
    factors, inner = saved[: 2 * count], saved[2 * count :]
    members = zip(ctx.spans, ctx.scalings, factors[::2], factors[1::2], inner, strict=True)
    for (_, start, stop), scaling, a, b, product in members:
        rows = slice(start, stop)
        inner_gradient = _thin(outer[rows], b).mul_(scaling)
        found += [inner_gradient.T @ x[rows], (product.T @ outer[rows]).T.mul_(scaling)]
        if x_gradient is not None:
            x_gradient[rows].addmm_(inner_gradient, a, beta=kept)
    return found


def _thin(x: Tensor, factor: Tensor) -> Tensor:
    """x [tokens, in] times a factor [in, rank]."""
    return (factor.T @ x.T).T if factor.shape[1] < FEWEST_COLUMNS else x @ factor


class AdaptedLayer(nn.Module):
    """A frozen layer and the low-rank factors of K members. Base class; `base` is called unchanged."""

    def __init__(self, base: nn.Module, rows: Rows, number: int, scalings: Sequence[float], dropouts: Sequence[float]) -> None:
        super().__init__()
        self.base = base
        self.batch_rows = rows
        self.number = number  # place among the adapted layers: each drops other inputs
        self.scalings = list(scalings)
        self.dropouts = list(dropouts)
        self.a = nn.ParameterList()
        self.b = nn.ParameterList()

    @property
    def weight(self) -> Tensor:
        """The base's weight, for models that look at a layer's weight without calling it."""
        assert isinstance(self.base.weight, Tensor)
        return self.base.weight

    @property
    def bias(self) -> Any:
        return getattr(self.base, "bias", None)

    def factors(self, member: int) -> tuple[Tensor, Tensor]:
        """(A, B) as they are multiplied; a method may put something trained of its own into either."""
        return self.a[member], self.b[member]

    def delta(self, member: int) -> Tensor:
        """scaling · B A, in the layout of the base's weight."""
        a, b = self.factors(member)
        product: Tensor = self.scalings[member] * (b @ a)
        return product

    @torch.no_grad()
    def merge(self, member: int) -> None:
        self.weight.add_(self.delta(member).to(self.weight.dtype))


class AdaptedLinear(AdaptedLayer):
    """`nn.Linear` or GPT-2's `Conv1D` with low-rank updates."""

    def add_member(self, rank: int, generator: torch.Generator) -> None:
        inputs, outputs = linear_shape(self.base)
        bound = 1 / math.sqrt(inputs)  # PEFT's start: kaiming_uniform_(a=sqrt(5)) for A, zeros for B
        device = self.weight.device
        start = torch.empty(rank, inputs).uniform_(-bound, bound, generator=generator)
        self.a.append(nn.Parameter(start.to(device)))
        self.b.append(nn.Parameter(torch.zeros(outputs, rank, device=device)))

    def forward(self, x: Tensor) -> Tensor:
        flat_x = x.reshape(-1, x.shape[-1])  # of rows alone: autograd would copy a view that is changed in place whole, twice
        spans = self.batch_rows.token_spans(x.shape[0], len(flat_x))
        scalings = [self.scalings[member] for member, _, _ in spans]
        drops = self.training and any(self.dropouts[member] for member, _, _ in spans)
        if self._is_plain(flat_x) and not drops:
            factors = self._factors(spans, x.dtype)
            y: Tensor = AdaptedProduct.apply(flat_x, self.weight, self.bias, spans, scalings, *factors)  # type: ignore[no-untyped-call]
        else:
            y = self.base(flat_x)
            if y._is_view():  # what another autograd function hands out as a view may not be changed in place
                y = y.clone()
            given = self._dropped(flat_x, spans, self.batch_rows.row_length(x.shape[0], len(flat_x))) if drops else flat_x
            y = LowRankUpdate.apply(y, given.to(y.dtype), spans, scalings, *self._factors(spans, y.dtype))  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], y.shape[-1])

    def _is_plain(self, x: Tensor) -> bool:
        """Whether the base is nothing but x Wᵀ + bias, frozen, in the precision of x."""
        base, weight = self.base, self.weight
        called_alone = "forward" not in vars(base) and not base._forward_pre_hooks and not base._forward_hooks
        kind = x.device.type
        cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        return type(base) is nn.Linear and called_alone and weight.dtype == x.dtype and not cast and not weight.requires_grad

    def _factors(self, spans: list[Span], dtype: torch.dtype) -> list[Tensor]:
        return [factor.to(dtype) for member, _, _ in spans for factor in self.factors(member)]

    def _dropped(self, x: Tensor, spans: list[Span], length: int) -> Tensor:
        mask = torch.ones_like(x)
        for member, start, stop in spans:
            if self.dropouts[member]:
                seed = self.batch_rows.dropout_seed(member) + self.number
                mask[start:stop] = dropout_mask(x[start:stop], length, self.dropouts[member], seed)
        return x * mask

    def delta(self, member: int) -> Tensor:
        product = super().delta(member)
        return product.T if isinstance(self.base, Conv1D) else product


class AdaptedEmbedding(AdaptedLayer):
    """`nn.Embedding` with low-rank updates: A [rank, vocabulary], B [width, rank]."""

    def add_member(self, rank: int, generator: torch.Generator) -> None:
        entries, width = self.weight.shape
        device = self.weight.device  # PEFT's start: zeros for A, normal for B
        self.a.append(nn.Parameter(torch.zeros(rank, entries, device=device)))
        self.b.append(nn.Parameter(torch.empty(width, rank).normal_(generator=generator).to(device)))

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.base(ids)
        flat_ids = ids.reshape(-1)
        update = y.new_zeros(len(flat_ids), y.shape[-1])
        for member, start, stop in self.batch_rows.token_spans(ids.shape[0], len(flat_ids)):
            looked_up = nn.functional.embedding(flat_ids[start:stop], self.a[member].T, padding_idx=self._padding())
            update[start:stop] = (looked_up @ self.b[member].T * self.scalings[member]).to(y.dtype)
        return y + update.view(y.shape) * getattr(self.base, "embed_scale", 1)  # some models scale what they look up

    def _padding(self) -> int | None:
        """The entry whose column of A never learns, as in the base's own embedding and in PEFT."""
        assert isinstance(self.base, nn.Embedding)
        return self.base.padding_idx

    def delta(self, member: int) -> Tensor:
        return super().delta(member).T


def dropout_mask(x: Tensor, length: int, p: float, seed: int) -> Tensor:
    """0 or 1 / (1 - p) for each element of x [rows · length, width].

    Drawn position by position: on a CPU, longer padding behind the same rows leaves the draws for what is in front unchanged,
    and a member drops the same inputs alone and in a stack.
    """
    generator = torch.Generator(x.device if x.is_cuda else "cpu").manual_seed(seed)
    kept = torch.empty(length, len(x) // length, x.shape[1], dtype=x.dtype, device=x.device).bernoulli_(
        1 - p, generator=generator
    )
    return kept.transpose(0, 1).reshape(x.shape).div_(1 - p)


def linear_shape(layer: nn.Module) -> tuple[int, int]:
    """(inputs, outputs) of a Linear or a Conv1D."""
    if isinstance(layer, Conv1D):
        return int(layer.weight.shape[0]), int(layer.weight.shape[1])
    assert isinstance(layer, nn.Linear)
    return layer.in_features, layer.out_features
