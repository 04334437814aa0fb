"""Tensors without values: what libraries that take them for real ones have to be told, and what operations make of them.

torch works out shapes, strides and types of such tensors in Python, which took more than half of a rehearsal. A model's layers
give the same operations the same shapes again and again, forward and backward, so this is done once and remembered by what they
are given.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._mode_utils import no_dispatch

from isolora import registry
from isolora.errors import ConfigError, PlugInError, UserError, in_brief
from isolora.models.architectures import replaced

MOST = 100_000
"""Operations that are remembered in one process; then it is forgotten and begun again."""


@contextmanager
def refused_in_one_line(model: str) -> Iterator[None]:
    """Within the context, whatever a model or a method does to tensors without values that these cannot bear is a ConfigError."""
    try:
        yield
    except (UserError, PlugInError):
        raise
    except Exception as failure:
        if registry.blamed(failure):  # an error of a plug-in's own is told as such
            raise
        reason = in_brief(failure)
        raise ConfigError(f"model: {model} cannot be rehearsed without weights: {reason}") from failure


@contextmanager
def taken_for_real() -> Iterator[None]:
    """transformers makes masks that it would leave out of a real step when it sees that tensors have no values; torch cannot move
    the weights of a module of such tensors, and warns when one is copied."""
    from transformers.utils import import_utils

    with (
        replaced(import_utils, "is_fake_tensor", lambda tensor: False),
        replaced(torch.utils, "swap_tensors", _take_over),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        yield


def _take_over(kept: Any, moved: Any) -> None:
    kept.data, kept.fake_device = moved.data, moved.fake_device


@dataclass(frozen=True)
class Made:
    """A tensor, apart from its memory. offset: where it begins in that of the first argument, counted from that one's beginning;
    None where it has memory of its own."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    offset: int | None = None


class _Kind(Enum):
    UNKNOWN = 0
    FIRST_ARGUMENT = 1  # changed in place, which without values is nothing
    ASK_AGAIN = 2


_known: dict[Hashable, Made | tuple[Made | None, ...] | _Kind] = {}
"""What an operation makes follows from its key alone, so that no run can spoil another."""


def made(func: Any, args: tuple[object, ...], kwargs: dict[str, Any], act: Callable[[], Any], mode: FakeTensorMode | None) -> Any:
    """What `act`, which is func(*args, **kwargs), would give.

    mode: of tensors that bear a device; None where they are on `meta`.
    """
    try:
        key = _key(func, args, kwargs, mode is not None)
    except _NotToRemember:
        return act()
    found = _known.get(key, _Kind.UNKNOWN)
    if isinstance(found, Made):
        return _again(found, mode, args)
    if isinstance(found, tuple):
        return tuple(None if each is None else _again(each, mode, args) for each in found)
    if found is _Kind.FIRST_ARGUMENT:
        return args[0]
    out = act()
    if found is _Kind.UNKNOWN:
        if len(_known) >= MOST:
            _known.clear()
        in_place = bool(args) and out is args[0] and _key(func, args, kwargs, mode is not None) == key
        several = isinstance(out, tuple) and not func.is_view
        described = _described_all(out, args) if several else _described(out, args, func.is_view)
        _known[key] = _Kind.FIRST_ARGUMENT if in_place else described
    return out


def _again(found: Made, mode: FakeTensorMode | None, args: tuple[Any, ...]) -> Tensor:
    if mode is None:
        return torch.empty_strided(found.shape, found.strides, dtype=found.dtype, device=found.device)
    with no_dispatch():
        if found.offset is None:
            meta = torch.empty_strided(found.shape, found.strides, dtype=found.dtype, device="meta")
        else:
            meta = torch.empty(0, dtype=found.dtype, device="meta")
            meta.set_(args[0].untyped_storage(), args[0].storage_offset() + found.offset, found.shape, found.strides)
    return FakeTensor(mode, meta, found.device)


def _described(out: object, args: tuple[Any, ...], is_view: bool) -> Made | _Kind:
    """Whatever is neither a new dense tensor with memory of its own nor a view of the first argument is asked for again."""
    if not isinstance(out, Tensor) or out.layout != torch.strided:
        return _Kind.ASK_AGAIN
    if not (out.is_meta or isinstance(out, FakeTensor)):  # a real one, made from nothing, such as by `randperm`
        return _Kind.ASK_AGAIN
    if getattr(out, "constant", None) is not None:  # one whose values are known after all
        return _Kind.ASK_AGAIN
    held = out.untyped_storage()
    if is_view:
        alike = isinstance(args[0], Tensor) and args[0].dtype == out.dtype and args[0].untyped_storage()._cdata == held._cdata
        if not alike:
            return _Kind.ASK_AGAIN
        return Made(tuple(out.shape), out.stride(), out.dtype, out.device, int(out.storage_offset() - args[0].storage_offset()))
    if out.storage_offset():
        return _Kind.ASK_AGAIN
    last = sum((size - 1) * stride for size, stride in zip(out.shape, out.stride(), strict=True)) if out.numel() else -1
    shared = any(isinstance(arg, Tensor) and arg.untyped_storage()._cdata == held._cdata for arg in args)
    if shared or held.nbytes() != (last + 1) * out.element_size():
        return _Kind.ASK_AGAIN
    return Made(tuple(out.shape), out.stride(), out.dtype, out.device)


def _described_all(outs: tuple[object, ...], args: tuple[Any, ...]) -> tuple[Made | None, ...] | _Kind:
    """Of several tensors: those of a layer's norm took two thirds of a rehearsal of BART. None where one is not asked for."""
    found: list[Made | None] = []
    for out in outs:
        described = None if out is None else _described(out, args, is_view=False)
        if isinstance(described, _Kind):
            return described
        found.append(described)
    storages = [out.untyped_storage()._cdata for out in outs if isinstance(out, Tensor)]
    return tuple(found) if len(set(storages)) == len(storages) else _Kind.ASK_AGAIN


class _NotToRemember(Exception):
    pass


def _key(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], with_device: bool) -> Hashable:
    if (func.is_view and not (with_device and args)) or (func._schema.is_mutable and "out" in kwargs):
        raise _NotToRemember  # a view on `meta` is quick
    # of all views this one alone is given a place in the memory, and not in its first argument
    offset = args[0].storage_offset() if func is torch.ops.aten.as_strided.default else None
    return (func, with_device, offset, *map(_part, args), *((name, _part(value)) for name, value in kwargs.items()))


def _part(value: object) -> Hashable:
    if isinstance(value, Tensor):
        if value.layout != torch.strided or not value.dim() or not (value.is_meta or isinstance(value, FakeTensor)):
            raise _NotToRemember  # a number in a tensor decides types by other rules
        return (value.shape, value.stride(), value.dtype, value.device)
    if isinstance(value, list | tuple):
        return tuple(map(_part, value))
    return (type(value), value)
