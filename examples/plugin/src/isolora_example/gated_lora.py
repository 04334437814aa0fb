"""LoRA with a gate: y = W x + g · scaling · B A x, where every adapted layer learns its own g.

The gate starts at 1, so that the adapter starts as LoRA does. It is folded into B, and so is merged with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from isolora.extend import (
    AdaptedLinear,
    ConfigError,
    Heads,
    OwnFormat,
    OwnFormatAttached,
    Rows,
    Settings,
    Span,
    head_names,
    target_modules,
    untie,
)


class GatedLoraSettings(Settings):
    rank: int = Field(8, ge=1, description="inner dimension of the update")
    alpha: float = Field(16.0, gt=0, description="numerator of the scaling, over the rank")
    targets: str | list[str] = Field("all-linear", description="all-linear, module names, or a pattern over full module names")


class GatedLinear(AdaptedLinear):
    """A frozen linear layer with the factors and the gates of K members."""

    def __init__(self, base: nn.Module, rows: Rows, number: int, scalings: Sequence[float]) -> None:
        super().__init__(base, rows, number, scalings, dropouts=[0.0] * len(scalings))
        self.gates = nn.ParameterList([nn.Parameter(torch.ones((), device=base.weight.device)) for _ in scalings])

    def factors(self, member: int) -> tuple[Tensor, Tensor]:
        return self.a[member], self.gates[member] * self.b[member]


class GatedLoraAdapters(OwnFormatAttached):
    """K members on one model; `layers` maps full names of layers to what stands there now."""

    name = "gated-lora"

    def __init__(self, model: Any, members: Sequence[GatedLoraSettings], seeds: Sequence[int], heads: bool) -> None:
        self.model, self.settings, self.members = model, list(members), len(members)
        own_heads = head_names(model) if heads else []
        named = {name: model.get_submodule(name) for name in target_modules(model, members[0].targets)}
        names = [name for name in named if name.split(".")[0] not in own_heads]
        if any(isinstance(layer, nn.Embedding) for layer in named.values()) or any(
            member.targets != members[0].targets for member in members
        ):
            raise ConfigError("method.targets: linear layers, the same for all members of a stack")
        self.batch_rows = Rows()
        self.was_trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        model.requires_grad_(False)
        self.layers = {name: self._wrap(name, number) for number, name in enumerate(names)}
        for settings, seed in zip(members, seeds, strict=True):
            generator = torch.Generator().manual_seed(seed)
            for layer in self.layers.values():
                layer.add_member(settings.rank, generator)
        self.heads = Heads(model, self.batch_rows, seeds if heads else ())

    def _wrap(self, name: str, number: int) -> GatedLinear:
        scalings = [member.alpha / member.rank for member in self.settings]
        layer = GatedLinear(self.model.get_submodule(name), self.batch_rows, number, scalings)
        self.model.set_submodule(name, layer)
        return layer

    def named(self, member: int) -> Iterator[tuple[str, nn.Parameter]]:
        for name, layer in self.layers.items():
            yield f"{name}.a", layer.a[member]
            yield f"{name}.b", layer.b[member]
            yield f"{name}.gate", layer.gates[member]
        yield from self.heads.named(member)

    def rows(self, spans: Sequence[Span]) -> AbstractContextManager[None]:
        return self.batch_rows.assigned(spans)

    def train(self, on: bool) -> None:
        """The base's own dropout stays off, since members would share its draws."""
        for module in self.model.modules():
            if getattr(module, "gradient_checkpointing", False):
                module.training = on

    def facts(self, member: int) -> dict[str, Any]:
        return {"gates": {name: layer.gates[member].item() for name, layer in self.layers.items()}}

    def merge(self, member: int) -> Any:
        untie(self.model, [layer.base for layer in self.layers.values()])
        for layer in self.layers.values():
            layer.merge(member)
        self.heads.merge(member)
        self.detach()
        return self.model

    def detach(self) -> None:
        for name, layer in self.layers.items():
            self.model.set_submodule(name, layer.base)
        self.heads.detach()
        for parameter in self.was_trained:
            parameter.requires_grad_(True)


class GatedLora(OwnFormat):
    name = "gated-lora"
    Settings = GatedLoraSettings
    stackable = True
    mergeable = True
    own_in_stack = frozenset({"rank", "alpha"})

    def attach(
        self, model: Any, members: Sequence[GatedLoraSettings], seeds: Sequence[int], heads: bool = False
    ) -> GatedLoraAdapters:
        return GatedLoraAdapters(model, members, seeds, heads)


method = GatedLora()
