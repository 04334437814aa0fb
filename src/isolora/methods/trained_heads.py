"""Heads made for a task: each member trains a copy of its own beside its adapter, and keeps it in the adapter's file."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from isolora.methods.low_rank import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class OwnCopies(nn.Module):
    """A module of which every member has its own trained copy, applied to its own rows of the batch."""

    def __init__(self, base: nn.Module, rows: Rows) -> None:
        super().__init__()
        self.base = base
        self.batch_rows = rows
        self.copies = nn.ModuleList()

    def add_member(self, model: PreTrainedModel, seed: int) -> None:
        """A fresh copy, initialised as the model does it, from this seed alone."""
        fresh = copy.deepcopy(self.base).requires_grad_(True)
        if not any(parameter.is_meta for parameter in fresh.parameters()):
            initialise(model, fresh, seed)
        self.copies.append(fresh)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        spans = self.batch_rows.token_spans(len(x), len(x))  # rows of the batch, whatever follows
        if not spans:
            bare: Tensor = self.base(x, *args, **kwargs)
            return bare
        parts = [self.copies[member](x[start:stop], *args, **kwargs) for member, start, stop in spans]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def head_names(model: PreTrainedModel) -> list[str]:
    """Modules beside the body: what a model for classification or for questions has on top."""
    return [
        name for name, child in model.named_children() if child is not model.base_model and any(True for _ in child.parameters())
    ]


class Heads:
    """The heads of K members; `layers` maps their names to OwnCopies."""

    def __init__(self, model: PreTrainedModel, rows: Rows, seeds: Sequence[int]) -> None:
        self.model = model
        self.layers: dict[str, OwnCopies] = {}
        for name in head_names(model) if seeds else ():
            layer = OwnCopies(model.get_submodule(name), rows)
            for seed in seeds:
                layer.add_member(model, seed)
            setattr(model, name, layer)
            self.layers[name] = layer

    def named(self, member: int) -> Iterator[tuple[str, nn.Parameter]]:
        """(full name in the plain model, parameter) of one member."""
        for name, layer in self.layers.items():
            for inner, parameter in layer.copies[member].named_parameters():
                yield f"{name}.{inner}", parameter

    def merge(self, member: int) -> None:
        """Leave the member's head as the model's own."""
        for layer in self.layers.values():
            layer.base = layer.copies[member].requires_grad_(False)

    def detach(self) -> None:
        for name, layer in self.layers.items():
            setattr(self.model, name, layer.base)


@contextmanager
def drawing_from(seed: int, device: torch.device) -> Iterator[None]:
    """Within, the device's global generator draws from the seed; afterwards it is as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if device.type in ("cpu", "meta"):
            # torch.manual_seed would note its call stack, 0.5 ms, for a CUDA that may come
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        yield


def initialise(model: PreTrainedModel, head: nn.Module, seed: int) -> None:
    """As `from_pretrained` does for weights that no checkpoint holds; the global generator is left as it was."""
    device = next((parameter.device for parameter in head.parameters()), torch.device("cpu"))
    with drawing_from(seed, device), torch.no_grad():
        for module in head.modules():
            for parameter in module.parameters(recurse=False):
                parameter._is_hf_initialized = False  # type: ignore[attr-defined]
            module._is_hf_initialized = False  # type: ignore[assignment]
            model._init_weights(module)
