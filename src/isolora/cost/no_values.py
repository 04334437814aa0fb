"""Tensors without values: what libraries that take them for real ones have to be told, and what operations make of them.

torch works out shapes, strides and types of such tensors in Python, which took more than half of a rehearsal. A model's layers
give the same operations the same shapes again and again, forward and backward, so this is done once and remembered by what they
are given. Where tensors bear a device, it is done by the kernels for `meta`, which lie in C++: FakeTensor's own way takes 0.3 to
1 ms an operation, these 0.02 ms.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Self

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_impls import op_implementations_dict, stride_incorrect_op
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from isolora import registry
from isolora.errors import ConfigError, PlugInError, UserError, in_brief
from isolora.json_types import JsonObject
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


class WithoutValues(FakeTensorMode):
    """Tensors that bear a device and have no values; a copied module's are of the same mode.

    PEFT copies the head that it trains. torch copies the mode with each tensor, and in it weak references to the memory of
    constants, which are not counted anew: freed twice, they take the memory of whatever came after.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)

    def __deepcopy__(self, memo: JsonObject) -> Self:
        return self


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


Outcome = Made | tuple[Made | None, ...] | _Kind
_known: dict[Hashable, Outcome] = {}
"""What an operation makes follows from its key alone, so that no run can spoil another."""


def made(func: Any, args: tuple[object, ...], kwargs: dict[str, Any], act: Callable[[], Any], mode: FakeTensorMode | None) -> Any:
    """What `act`, which is func(*args, **kwargs), would give.

    mode: of tensors that bear a device; None where they are on `meta`.
    """
    if mode is None and func.is_view:
        return act()  # quick on `meta`
    try:
        key = _key(func, args, kwargs, mode is not None)
    except _NotToRemember:
        return act()
    found = _known.get(key, _Kind.UNKNOWN)
    if found is _Kind.UNKNOWN:
        if len(_known) >= MOST:
            _known.clear()
        if mode is not None and (by_kernel := _by_meta_kernel(func, args, kwargs)) is not None:
            found = _known[key] = by_kernel
    if isinstance(found, Made):
        return _again(found, mode, args)
    if isinstance(found, tuple):
        return tuple(None if each is None else _again(each, mode, args) for each in found)
    if found is _Kind.FIRST_ARGUMENT:
        return args[0]
    out = act()
    if found is _Kind.UNKNOWN:
        _known[key] = _outcome(out, args, func.is_view, unchanged=lambda: _key(func, args, kwargs, mode is not None) == key)
    return out


def _outcome(out: object, args: tuple[object, ...], is_view: bool, unchanged: Callable[[], bool]) -> Outcome:
    """What an operation has made of its arguments. unchanged: whether these are of the same kind as before."""
    if args and out is args[0] and unchanged():
        return _Kind.FIRST_ARGUMENT
    return _described_all(out, args) if isinstance(out, tuple) and not is_view else _described(out, args, is_view)


def _by_meta_kernel(func: Any, args: tuple[object, ...], kwargs: JsonObject) -> Outcome | None:
    """What an operation makes of tensors that bear one device, or of none, by the kernel for `meta`; None where FakeTensor might
    say something else, or has to say what is wrong."""
    device = _only_device(args, kwargs) if _has_plain_kernel(func) else None
    if device is None:
        return None
    with torch._C._DisableTorchDispatch():
        bare = tuple(map(_on_meta, args))
        given = {name: _META if name == "device" else _on_meta(value) for name, value in kwargs.items()}
        try:
            key = _key(func, bare, {}, with_device=True)
            out = func(*bare, **given)
            is_view = func.is_view or func is torch.ops.aten._unsafe_view.default
            found = _outcome(out, bare, is_view, lambda: _key(func, bare, {}, with_device=True) == key)
        except Exception:
            return None
    return None if found is _Kind.ASK_AGAIN else _bearing(found, device)


def _only_device(args: tuple[object, ...], kwargs: JsonObject) -> torch.device | None:
    """The one that all tensors bear, and the one that is asked for; None where there are several, or tensors that bear none."""
    held = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    held += [each for value in args if isinstance(value, list | tuple) for each in value if isinstance(each, Tensor)]
    found = {tensor.fake_device if isinstance(tensor, FakeTensor) else None for tensor in held}
    found |= {kwargs["device"]} if kwargs.get("device") is not None else set()
    return found.pop() if len(found) == 1 else None


AS_ANYWHERE = {
    *("view", "_unsafe_view", "slice", "select", "embedding", "index", "copy_", "_to_copy", "zeros_like", "ones_like"),
    *("empty_like", "full_like", "new_zeros", "new_ones", "new_empty", "new_full"),
}
"""Of the operations that FakeTensor works out in a way of its own those where this is for sizes that nobody knows, or for the
device, which is borne here."""


def _has_plain_kernel(func: OpOverload) -> bool:
    """Whether FakeTensor would ask the kernel for `meta`, or one that agrees with it, whatever the device."""
    if func.namespace != "aten":
        return False
    if func._schema.name.removeprefix("aten::") in AS_ANYWHERE:
        return True
    special = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output, torch.Tag.inplace_view} & set(func.tags)
    return not special and func not in op_implementations_dict and not stride_incorrect_op(func)


def _on_meta(value: object) -> object:
    """The same tensor, which shares its memory, without the device that it bears."""
    if isinstance(value, list | tuple):
        return [_on_meta(each) for each in value]
    if not isinstance(value, FakeTensor):
        return value
    empty = torch.empty(0, dtype=value.dtype, device="meta")
    return empty.set_(value.untyped_storage(), value.storage_offset(), value.shape, value.stride())


def _bearing(found: Outcome, device: torch.device) -> Outcome:
    """The same with tensors that bear a device."""
    if isinstance(found, tuple):
        return tuple(None if each is None else replace(each, device=device) for each in found)
    return replace(found, device=device) if isinstance(found, Made) else found


def _again(found: Made, mode: FakeTensorMode | None, args: tuple[Any, ...]) -> Tensor:
    if mode is None:
        return torch.empty_strided(found.shape, found.strides, dtype=found.dtype, device=found.device)
    with torch._C._DisableTorchDispatch():
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


_OF_NUMBERS = (torch.float64, torch.int64, torch.complex128)
_META = torch.device("meta")
AS_STRIDED = torch.ops.aten.as_strided.default


class _NotToRemember(Exception):
    pass


def _key(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], with_device: bool) -> Hashable:
    if ("out" in kwargs and func._schema.is_mutable) or (func.is_view and not args):
        raise _NotToRemember
    # of all views this one alone is given a place in the memory, and not in its first argument
    offset = args[0].storage_offset() if func is AS_STRIDED else None
    # what torch calls: an operation of its own hashes in Python
    return (func._op, with_device, offset, *map(_part, args), *((name, _part(value)) for name, value in kwargs.items()))


def _part(value: object) -> Hashable:
    if isinstance(value, FakeTensor):
        if value.constant is not None:
            raise _NotToRemember
        return _kind_of_tensor(value, value.fake_device)
    if isinstance(value, Tensor):
        if not value.is_meta:
            raise _NotToRemember
        return _kind_of_tensor(value, _META)
    if isinstance(value, list | tuple):
        return tuple(map(_part, value))
    return (type(value), value)


def _kind_of_tensor(tensor: Tensor, device: torch.device | None) -> Hashable:
    if tensor.layout != torch.strided or (tensor.dtype in _OF_NUMBERS and not tensor.dim()):
        raise _NotToRemember  # a number of Python's decides types by other rules than a tensor that holds one
    return (tensor.shape, tensor.stride(), tensor.dtype, device)
