"""Products with frozen weights, by the library that is quicker at them on this processor.

MKL, which torch takes for float32, leaves AVX-512 aside on processors that are not Intel's; oneDNN, which comes with torch too,
uses it. On an AMD EPYC of the fourth generation, one thread, x Wᵀ and g W of models 128 to 576 wide run at 81 to 103 GFLOP/s by
MKL and at 94 to 111 by oneDNN.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

PLAIN = (Tensor, nn.Parameter)
"""Types that hold values; a rehearsal's tensors have none."""
BY_ONEDNN: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""What torch's compiler calls for linear layers on a CPU."""


def frozen_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + bias; x [rows, in], weight [out, in]. For backward passes written by hand: oneDNN leaves autograd no trace."""
    if not (_is_plain(x) and _is_plain(weight) and not torch.is_autocast_enabled("cpu") and prefers_onednn()):
        return nn.functional.linear(x, weight, bias)
    found: Tensor = BY_ONEDNN(x, weight, bias, "none", [], "")
    return found


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in PLAIN and tensor.dtype == torch.float32 and tensor.device.type == "cpu"


@cache
def prefers_onednn() -> bool:
    """By what the processor is, not by a clock, so that a run gives the same bits each time."""
    able = BY_ONEDNN is not None and torch.backends.mkldnn.is_available()
    return able and torch.backends.cpu.get_cpu_capability() == "AVX512" and _maker() not in ("", "GenuineIntel")


def _maker() -> str:
    """Of the processor, as Linux names it; empty elsewhere."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("vendor_id"))
    return ""


def _flops(x: torch.Size, weight: torch.Size, *_: object, **__: object) -> int:
    """Of shapes [..., in] and [out, in]."""
    outputs: int = weight[0]
    return 2 * prod(x) * outputs


if BY_ONEDNN is not None:
    register_flop_formula(BY_ONEDNN)(_flops)  # torch's counter takes it for nothing
