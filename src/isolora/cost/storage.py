"""Which storages are alive during a step, each followed from birth to release; of real tensors and of those without values."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from isolora.cost.bookkeeper import VALUE_OF, storage
from isolora.cost.no_values import made
from isolora.cost.timeline import Timeline
from isolora.tasks.base import Batch

DEVICE_OF, GROUPED_PRODUCT = torch.ops.prim.device.default, torch.ops.aten._grouped_mm.default
CUDA_BLOCK_BYTES = 512
"""PyTorch's caching allocator on a GPU rounds every request up to a multiple of it."""


class StorageTracker(TorchDispatchMode):
    """Bytes of the storages that are alive, and the most there have been since `begin`, less what was there then."""

    def __init__(self, device: str, vocabulary: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.block = CUDA_BLOCK_BYTES if device == "cuda" else 1
        self.vocabulary = vocabulary
        self.followed: dict[int, weakref.ref[Any]] = {}
        self.timeline: Timeline | None = None
        self.alive = self.logits = self.peak = self.logits_at_peak = self.before = self.logits_before = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and torch's guard against it takes time at every operation

    def begin(self) -> None:
        self.before, self.peak, self.logits_at_peak = self.alive, 0, 0
        self.logits_before = self.logits  # a bias of the head is a weight
        if self.timeline is not None:
            self.timeline.begin_with(self.alive, self.logits)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = self.run(func, args, kwargs or {})
        if not func.is_view:
            for tensor in (out,) if isinstance(out, Tensor) else tree_leaves(out):
                if isinstance(tensor, Tensor) and tensor.layout == torch.strided:  # a sparse one has no storage of its own
                    self.follow(tensor)
        return out

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, **kwargs)

    def follow(self, tensor: Tensor) -> None:
        held = tensor.untyped_storage()
        key, is_logits = held._cdata, tensor.shape[-1:] == (self.vocabulary,)
        if key not in self.followed:
            size = -(-held.nbytes() // self.block) * self.block
            self.followed[key] = weakref.ref(held, lambda _: self.release(key, size, is_logits))
            self._add(size, is_logits)

    def release(self, key: int, size: int, is_logits: bool) -> None:
        del self.followed[key]
        self._add(-size, is_logits)

    def _add(self, size: int, is_logits: bool) -> None:
        self.alive += size
        self.logits += size * is_logits
        if self.timeline is not None:
            self.timeline.note(self.alive, self.logits)
        if self.alive - self.before > self.peak:
            self.peak, self.logits_at_peak = self.alive - self.before, self.logits - self.logits_before


class RehearsedStorageTracker(StorageTracker):
    """The same for tensors without values. Questions about values ("is the mask all ones?") are answered as for a padded batch
    once `rows_differ` has been told which."""

    def __init__(self, device: str, vocabulary: int) -> None:
        super().__init__(device, vocabulary)
        self.differing: set[int] = set()
        self.mode: FakeTensorMode | None = None

    def rows_differ(self, batch: Batch | None) -> None:
        """From here on, what is computed from the rows' lengths alone is not equal everywhere."""
        if batch is not None:
            self.differing.add(storage(batch.lengths))
            self.rows_differ(batch.second)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.timeline is not None and self.timeline.backward:
            self.timeline.at_node()
        if func is DEVICE_OF:  # asked for before every product
            return args[0].fake_device
        if func is VALUE_OF:
            return storage(args[0]) not in self.differing if args[0].dtype == torch.bool else 1
        if func is GROUPED_PRODUCT:
            out = _grouped(*args)
            self.follow(out)
            return out
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if isinstance(out, Tensor) and not out.is_floating_point() and not self.differing.isdisjoint(map(storage, args)):
            self.differing.add(storage(out))
        return out

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.mode is None:
            return super().run(func, args, kwargs)
        return made(func, args, kwargs, lambda: func(*args, **kwargs), self.mode)

    def release(self, key: int, size: int, is_logits: bool) -> None:
        super().release(key, size, is_logits)
        self.differing.discard(key)


def _grouped(x: Tensor, other: Tensor, ends: Tensor, *_: object) -> Tensor:
    """Products of experts, whose own form without values refuses float32: x [rows, in] · other [experts, in, out], or a weight's
    gradient, x [in, rows] · other [rows, out], one for each of `ends`."""
    experts = () if other.dim() == 3 else (len(ends),)
    return x.new_empty((*experts, len(x), other.shape[-1]))
