"""Bottleneck adapters: h + up(activation(down(h))) behind sublayers of a frozen model (Houlsby et al. 1902.00751).

`pfeiffer` keeps only the one behind the feed-forward (Pfeiffer et al. 2005.00052). Both stand in front of the residual sum, as in
Houlsby; the base's layer norms stay frozen. Saved in isolora's own format; not mergeable, since a nonlinearity is in between.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from isolora.errors import ConfigError
from isolora.methods.base import Span
from isolora.methods.low_rank import Rows, dropout_mask, linear_shape
from isolora.methods.model_layers import attention_outputs, feed_forward_output, layer_stacks
from isolora.methods.own_format import OwnFormat, OwnFormatAttached
from isolora.methods.recomputation import recompute_layers
from isolora.methods.trained_heads import Heads

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class BottleneckSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)
    places: Literal["houlsby", "pfeiffer"] = Field(
        "pfeiffer", description="behind attention and feed-forward, or the latter alone"
    )
    size: int | None = Field(None, ge=1, description="inner dimension; the width over `reduction` when absent")
    reduction: float = Field(16.0, ge=1, description="width of the model over the inner dimension")
    activation: Literal["relu", "gelu", "silu"] = Field("relu", description="between the two projections")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the inner activations")

    def inner(self, width: int) -> int:
        return self.size or max(1, int(width / self.reduction))


class Bottleneck(nn.Module):
    """One member's two projections; it starts as zero."""

    def __init__(self, width: int, settings: BottleneckSettings, generator: torch.Generator, device: torch.device) -> None:
        super().__init__()
        inner = settings.inner(width)
        self.settings = settings
        self.down = nn.Linear(width, inner, device=device)
        self.up = nn.Linear(inner, width, device=device)
        with torch.no_grad():
            bound = 1 / math.sqrt(width)
            self.down.weight.copy_(torch.empty(inner, width).uniform_(-bound, bound, generator=generator))
            for zero in (self.down.bias, self.up.weight, self.up.bias):
                zero.zero_()

    def forward(self, x: Tensor, length: int, dropout_seed: int | None) -> Tensor:
        """x [rows · length, width]."""
        inner: Tensor = getattr(nn.functional, self.settings.activation)(self.down(x))
        if dropout_seed is not None:
            inner = inner * dropout_mask(inner, length, self.settings.dropout, dropout_seed)
        update: Tensor = self.up(inner)
        return update


class BottleneckLayer(nn.Module):
    """A frozen module of the base, called unchanged, and what K members add to its output."""

    def __init__(self, base: nn.Module, width: int, rows: Rows, number: int) -> None:
        super().__init__()
        self.base = base
        self.width = width
        self.batch_rows = rows
        self.number = number  # place among the adapted modules: each drops other activations
        self.members = nn.ModuleList()

    @property
    def weight(self) -> Any:
        """The base's weight, for models that look at a layer's weight without calling it."""
        return self.base.weight

    def add_member(self, settings: BottleneckSettings, generator: torch.Generator) -> None:
        device = next(self.base.parameters()).device
        self.members.append(Bottleneck(self.width, settings, generator, device))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        y: Tensor = self.base(*args, **kwargs)
        flat = y.reshape(-1, y.shape[-1])
        spans = self.batch_rows.token_spans(len(y), len(flat))
        length = self.batch_rows.row_length(len(y), len(flat))
        updates = [self._update(member, flat[start:stop], length) for member, start, stop in spans]
        if [(start, stop) for _, start, stop in spans] == [(0, len(flat))]:
            return y + updates[0].view(y.shape)
        covered = torch.zeros_like(flat)
        for (_, start, stop), update in zip(spans, updates, strict=True):
            covered[start:stop] = update
        return y + covered.view(y.shape)

    def _update(self, member: int, x: Tensor, length: int) -> Tensor:
        bottleneck: Any = self.members[member]
        drops = self.training and bottleneck.settings.dropout
        update: Tensor = bottleneck(x, length, self.batch_rows.dropout_seed(member) + self.number if drops else None)
        return update


class BottleneckAdapters(OwnFormatAttached):
    """K members on one model; `layers` maps full names of modules of the base to what stands there now."""

    name = "bottleneck"

    def __init__(self, model: PreTrainedModel, members: Sequence[BottleneckSettings], seeds: Sequence[int], heads: bool) -> None:
        self.model, self.settings, self.members = model, list(members), len(members)
        if len({member.places for member in members}) > 1:
            raise ConfigError("method.places: members of one stack must have the same places")
        places = adapted_modules(model, members[0].places)
        for member in members:
            check_size(member, places)
        self._dropout_generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._rows = Rows(self._dropout_generators)
        self._was_trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        model.requires_grad_(False)
        self.layers = {name: self._wrap(name, width, number) for number, (name, width) in enumerate(places.items())}
        for settings, seed in zip(members, seeds, strict=True):
            generator = torch.Generator().manual_seed(seed)
            for layer in self.layers.values():
                layer.add_member(settings, generator)
        self.heads = Heads(model, self._rows, seeds if heads else ())

    def _wrap(self, name: str, width: int, number: int) -> BottleneckLayer:
        layer = BottleneckLayer(self.model.get_submodule(name), width, self._rows, number).train(False)
        self.model.set_submodule(name, layer)
        return layer

    def named(self, member: int) -> Iterator[tuple[str, nn.Parameter]]:
        for name, layer in self.layers.items():
            for inner, parameter in layer.members[member].named_parameters():
                yield f"{name}.{inner}", parameter
        yield from self.heads.named(member)

    def train(self, on: bool) -> None:
        """Adapters' dropout and recomputation; the base's own dropout stays off, since members would share its draws."""
        for module in self.model.modules():
            if isinstance(module, BottleneckLayer):
                module.training = on
        recompute_layers(self.model, on)

    def rows(self, spans: Sequence[Span]) -> AbstractContextManager[None]:
        return self._rows.assigned(spans)

    def generators(self) -> dict[str, torch.Generator]:
        return {f"dropout.{member}": generator for member, generator in enumerate(self._dropout_generators)}

    def merge(self, member: int) -> Any:
        raise ConfigError("method: a bottleneck adapter cannot be merged, since its activation is not linear")

    def detach(self) -> None:
        for name, layer in self.layers.items():
            self.model.set_submodule(name, layer.base)
        self.heads.detach()
        for parameter in self._was_trained:
            parameter.requires_grad_(True)


def adapted_modules(model: PreTrainedModel, places: str) -> dict[str, int]:
    """Full name of each module that gets an adapter -> width of the residual stream that it writes to."""
    found: dict[str, int] = {}
    for name in (name for stack in layer_stacks(model) for name in stack):
        layer = model.get_submodule(name)
        attention = attention_outputs(layer)
        chosen = [*(attention if places == "houlsby" else ()), feed_forward_output(layer)]
        found |= {f"{name}.{inner}": linear_shape(layer.get_submodule(attention[0]))[1] for inner in chosen}
    return found


def check_size(settings: BottleneckSettings, places: dict[str, int]) -> None:
    width = min(places.values())
    if settings.inner(width) > width:
        raise ConfigError(f"method.size: {settings.size} is larger than the model's width, {width}")


class BottleneckMethod(OwnFormat):
    name = "bottleneck"
    Settings = BottleneckSettings
    stackable = True
    own_in_stack = frozenset({"size", "reduction", "activation", "dropout"})

    def attach(
        self, model: PreTrainedModel, members: Sequence[BottleneckSettings], seeds: Sequence[int], heads: bool = False
    ) -> BottleneckAdapters:
        return BottleneckAdapters(model, members, seeds, heads)


method = BottleneckMethod()
