"""How fast a method trains on a base here: a step's seconds as a sum over the kinds of its work, measured once and kept."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isolora.caches import cache_folder, read_kept_json, versions, write_json
from isolora.config import RunConfig, content_hash
from isolora.ledger import GROUPS, Flops

FORMAT = 1  # raise it when the same machine would be measured in another way
APART = ("attention scores", "head")
"""Groups whose work runs at a rate of its own: the first is bound by memory, the second exponentiates what it multiplies."""


@dataclass(frozen=True)
class Speed:
    """Rates of one method on one base on one machine.

    seconds_per_micro_batch: what every one costs, however small; seconds_per_flop: of layers, attention scores, head, with the
    element-wise work around them; product_flops_per_second: of one large matrix product; largest_error: relative, over the shapes
    that were measured.
    """

    machine: str
    seconds_per_micro_batch: float
    seconds_per_flop: tuple[float, ...]
    product_flops_per_second: float
    largest_error: float

    def seconds(self, flops: Flops, micro_batches: int) -> float:
        """Of training steps: evaluation is not among them."""
        rates = np.array([self.seconds_per_micro_batch, *self.seconds_per_flop])
        return float(work_terms(flops, micro_batches) @ rates)

    def utilisation(self, flops: Flops, micro_batches: int) -> float:
        """Achieved rate over that of one large matrix product."""
        return flops.total / self.seconds(flops, micro_batches) / self.product_flops_per_second


def work_terms(flops: Flops, micro_batches: int) -> NDArray[np.float64]:
    """Micro-batches; FLOPs of layers, of attention scores, of the head."""
    by_group = flops.table.sum(0)
    apart = [by_group[GROUPS.index(group)] for group in APART]
    return np.array([micro_batches, by_group.sum() - sum(apart), *apart])


def fit_rates(machine: str, steps: Sequence[Flops], seconds: Sequence[float], product_flops_per_second: float) -> Speed:
    """Rates that are nowhere negative, least squares of relative errors; steps: of one micro-batch each."""
    from scipy.optimize import nnls

    done = np.array([work_terms(flops, 1) for flops in steps])
    relative = done / np.array(seconds)[:, None]
    scale = np.maximum(relative.max(0), 1e-300)
    rates = nnls(relative / scale, np.ones(len(steps)))[0] / scale
    errors = np.abs(done @ rates / seconds - 1)
    return Speed(machine, float(rates[0]), tuple(map(float, rates[1:])), product_flops_per_second, float(errors.max()))


def machine() -> str:
    """Processor and threads, or the GPU's name."""
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{_processor()}, {torch.get_num_threads()} of {os.cpu_count()} threads"


def _processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def stored(config: RunConfig) -> Speed | None:
    """What was measured here before for the run's base, task and method, if anything."""
    return stored_under(what(config))


def stored_under(name: str) -> Speed | None:
    """The same by what `what` calls the work. Which machine this is takes torch to say, and is asked where there is a choice."""
    if not any(_folder().glob(f"{name}-*.json")):
        return None
    kept = read_kept_json(_path(name))
    try:
        return Speed(**{**kept, "seconds_per_flop": tuple(kept["seconds_per_flop"])})
    except (TypeError, KeyError):  # a cache that is broken costs a measurement and nothing else
        return None


def store(config: RunConfig, speed: Speed) -> None:
    """Keep it for later processes."""
    write_json(_path(what(config)), asdict(speed))


def what(config: RunConfig) -> str:
    """Content hash of the work that is timed: base, task, method, precision."""
    from isolora import models

    training = config.training
    decided_by = [FORMAT, models.fingerprint(config.model), config.task.name, config.method.model_dump()]
    decided_by += [] if training.base_precision == "float32" else [training.base_precision]
    return content_hash([*decided_by, training.precision, training.gradient_checkpointing])


def _folder() -> Path:
    return cache_folder() / "speed"


def _path(name: str) -> Path:
    return _folder() / f"{name}-{content_hash([machine(), versions(('torch',))])}.json"
