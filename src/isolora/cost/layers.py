"""Repeated layers: a model of 80 like blocks is rehearsed with a few of them, and the rest follows by counting.

Two layers are alike when they hold the same modules with the same settings and shapes, train the same parameters, and lie on the
same side of the first trained layer: below it nothing is carried back. Alike layers cost the same, so that one of them stands for
all: what a step does in it counts as often as there are such layers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

FEWEST = 4
"""Shorter lists are rehearsed whole: nothing would be saved."""

Position = tuple[str, int] | None
"""(name of a list of layers, number of a layer there); None: outside of all layers."""

Kept = Mapping[str, Sequence[int]]
"""Name of a list of layers -> which of its layers a shortened model has."""


@dataclass(frozen=True)
class Layers:
    """A list of layers that a model goes through one after the other. kinds: equal numbers for layers that are alike."""

    name: str
    holder: nn.ModuleList
    layers: tuple[nn.Module, ...]
    kinds: tuple[int, ...]
    first_trained: int

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def special(self) -> set[int]:
        """The first layer, into which nothing may be carried back, and the first that is trained."""
        return {0, self.first_trained} & set(range(len(self)))

    def stand_ins(self) -> dict[int, int]:
        """Number of a layer -> how many it stands for: the special ones for themselves, the first of each kind for all others."""
        kinds: dict[int, list[int]] = {}
        for number, kind in enumerate(self.kinds):
            if number not in self.special:
                kinds.setdefault(kind, []).append(number)
        found = {**dict.fromkeys(self.special, 1), **{numbers[0]: len(numbers) for numbers in kinds.values()}}
        return dict(sorted(found.items()))


class LayerTracker:
    """Which layer a step is in, on the way up and on the way down."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A step begins."""
        self.position: Position = None
        self.backward = False
        self._starts: list[int] = []  # numbers of autograd's nodes at which positions begin
        self._positions: list[Position] = []

    def enter(self, position: Position) -> None:
        """A layer's forward pass begins, or the last one of a list has ended."""
        if not self.backward:  # recomputed layers belong to the node that asks for them
            self._starts.append(torch._C._autograd._get_sequence_nr())
            self._positions.append(position)
            self.move(position)

    def turn(self) -> None:
        """The backward pass begins."""
        self.backward = True
        self.move(None)

    def at_node(self) -> None:
        """Called at an operation of the backward pass: find the layer whose forward pass has made autograd's node."""
        node = torch._C._current_autograd_node()
        number = -1 if node is None else node._sequence_nr()
        if 0 <= number < 2**62:  # gradients are added up by nodes of the highest number
            index = bisect_right(self._starts, number) - 1
            self.move(self._positions[index] if index >= 0 else None)

    def move(self, position: Position) -> None:
        self.position = position

    @contextmanager
    def watching(self, layers: Sequence[Layers], kept: Kept) -> Iterator[None]:
        """Within the context it hears of every kept layer's forward pass."""
        handles = []
        for each in layers:
            positions = [(each.layers[number], partial(self._enter, (each.name, number))) for number in kept[each.name]]
            handles += [layer.register_forward_pre_hook(enter) for layer, enter in positions]
            handles.append(each.layers[kept[each.name][-1]].register_forward_hook(partial(self._enter, None)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, position: Position, *_: object) -> None:
        self.enter(position)


def find_layers(model: nn.Module) -> list[Layers]:
    """The model's lists of layers, outermost ones only; those too short to save anything left out."""
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and len(module) >= FEWEST and not inside:
            found[name] = module
    return [_layers(name, holder) for name, holder in found.items()]


def _layers(name: str, holder: nn.ModuleList) -> Layers:
    described = [_described(layer) for layer in holder]
    counters = _counters(described)
    own = [tuple((key, value) for key, value in layer.items() if key not in counters) for layer in described]
    trained = [number for number, layer in enumerate(holder) if any(p.requires_grad for p in layer.parameters())]
    first = trained[0] if trained else len(own)
    numbers: dict[Any, int] = {}
    kinds = tuple(numbers.setdefault((layer, place > first), len(numbers)) for place, layer in enumerate(own))
    return Layers(name, holder, tuple(holder), kinds, first)


def _described(layer: nn.Module) -> dict[tuple[str, str], Any]:
    """(path of a module, name there) -> what decides its work: classes, settings, shapes, what is trained."""
    found: dict[tuple[str, str], Any] = {}
    for path, module in layer.named_modules():
        found[path, "class"] = type(module)
        found[path, "hooks"] = (len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, value in vars(module).items():
            if not name.startswith("_"):
                found[path, name] = _plain(value)
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            found[path, name] = None if tensor is None else (tuple(tensor.shape), str(tensor.dtype), tensor.requires_grad)
    return found


def _plain(value: object) -> object:
    """A setting as something that can be compared; of an object its class alone."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    if isinstance(value, dict):
        return tuple((str(key), _plain(inner)) for key, inner in value.items())
    return type(value)


def _counters(described: Sequence[Mapping[Any, Any]]) -> set[Any]:
    """Settings that only number the layers, such as `layer_idx`: whole numbers that rise evenly from layer to layer."""
    first, second = described[0], described[1]
    found = set()
    for key, value in first.items():
        values = [layer.get(key) for layer in described]
        if all(type(each) is int for each in values) and second[key] != value:
            step = second[key] - value
            if values == list(range(value, value + step * len(values), step)):
                found.add(key)
    return found


@contextmanager
def shortened(model: nn.Module, layers: Sequence[Layers], kept: Kept) -> Iterator[None]:
    """Within the context the model has these layers alone, and its configuration's lists with one entry a layer fit them."""
    whole = [(each.holder, dict(each.holder._modules)) for each in layers]
    settings = [(config, name, value) for each in layers for config, name, value in _lists(model, each)]
    try:
        for each in layers:
            chosen = [each.layers[number] for number in kept[each.name]]
            each.holder._modules = {str(place): layer for place, layer in enumerate(chosen)}
            for config, name, value in _lists(model, each):
                config.__dict__[name] = [value[number] for number in kept[each.name]]
        yield
    finally:
        for holder, modules in whole:
            holder._modules = modules
        for config, name, value in settings:
            config.__dict__[name] = value


def _lists(model: nn.Module, layers: Layers) -> list[tuple[Any, str, list[Any]]]:
    """(configuration, name, value) of settings such as `layer_types` that the module above the layers has for each of them."""
    above = model.get_submodule(layers.name.rpartition(".")[0])
    config = getattr(above, "config", None)
    held = {} if config is None else vars(config)
    return [(config, name, value) for name, value in held.items() if isinstance(value, list) and len(value) == len(layers)]
