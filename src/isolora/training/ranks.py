"""Several processes on one run, as `accelerate launch` and `torchrun` start them: data parallel training.

Every process holds the whole run and draws the same batches. Each puts its share of a batch's rows through the model; gradients
and losses are summed over the processes, so that all take the step that one process would take. Process 0 alone writes: it has
the store, the checkpoints, the trackers and the adapter, and tells the others what to train.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import PartialState
from numpy.typing import NDArray
from torch import Tensor

from isolora.errors import ConfigError, in_brief
from isolora.methods.model_layers import layer_stacks
from isolora.runs.batches import Indices

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Ranks:
    """This process among `count`; `number` 0 leads. Alone, every method gives back what it is given."""

    def __init__(self, number: int = 0, count: int = 1) -> None:
        self.number, self.count = number, count
        self.training = False
        """Whether the others are in the middle of a stack and wait for gradients."""

    @property
    def leads(self) -> bool:
        return self.number == 0

    @property
    def share(self) -> slice:
        """Which batches are this process's; the shares of all processes are the whole."""
        return slice(self.number, None, self.count)

    def part_of(self, rows: Indices) -> tuple[Indices, float]:
        """(this process's rows of a batch, what they count). Of fewer rows than processes each takes all, and they count less: a
        process without rows would keep those waiting that share a base with it."""
        return (rows[self.share], 1.0) if len(rows) >= self.count else (rows, 1 / self.count)

    def add_up(self, tensor: Tensor) -> None:
        """The sum over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(tensor)

    def total(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum over all processes of an array on the CPU."""
        if self.count == 1:
            return values
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        summed = torch.from_numpy(values).to(device)
        dist.all_reduce(summed)
        return summed.cpu().numpy()

    def agreed(self, number: int | None) -> int | None:
        """The largest number that any process has; None where none has one."""
        if self.count == 1:
            return number
        mine = np.zeros(self.count)
        mine[self.number] = number or 0
        return int(self.total(mine).max()) or None

    def send(self, what: Any) -> None:
        """From process 0 to the others, who wait for it in `receive`."""
        if self.count > 1:
            self.training = what is not None
            dist.broadcast_object_list([what])

    def receive(self) -> Any:
        """What process 0 has sent; None when there is nothing left to do."""
        what: list[Any] = [None]
        dist.broadcast_object_list(what)
        return what[0]

    @contextmanager
    def led(self) -> Iterator[None]:
        """Around all that process 0 does; at the end the others are sent home. Where it breaks in the middle of a stack, they end
        as its connection closes."""
        try:
            yield
        finally:
            if not self.training:
                self.send(None)


ALONE = Ranks()


def shard(base: PreTrainedModel, device: torch.device, ranks: Ranks) -> None:
    """Give each process a part of the frozen weights of every layer (FSDP2, `torch.distributed.fsdp.fully_shard`).

    They are put together when it is the layer's turn, and let go again. Embeddings, heads, and what is trained stay whole
    everywhere: tasks call the model's body and its head apart, which FSDP cannot see. Raises ConfigError for weights that cannot
    be cut: quantised ones, or none that are frozen.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard  # a fifth of what a study's process would import, and hardly any asks for it

    mesh = init_device_mesh(device.type, (ranks.count,))
    layers = [base.get_submodule(name) for name in chain.from_iterable(layer_stacks(base))]
    frozen = [parameter for layer in layers for parameter in layer.parameters() if not parameter.requires_grad]
    if not frozen or not all(parameter.is_floating_point() for parameter in frozen):
        reason = "the frozen weights are quantised" if frozen else "the method trains every weight"
        raise ConfigError(f"training.shard_base: {reason}, so that they cannot be shared out; leave it off")
    trained = {parameter for parameter in base.parameters() if parameter.requires_grad}
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=trained)


def launched() -> Ranks:
    """The processes that a launcher has started; joins them. Raises ConfigError where they cannot find each other, as where
    WORLD_SIZE was set by hand."""
    if (count := _launched_count()) == 1:
        return ALONE
    try:
        state = PartialState(cpu=not torch.cuda.is_available())  # without a GPU they talk by gloo
    except (OSError, RuntimeError, ValueError) as failure:
        PartialState._reset_state()  # half of it is kept for the next one
        words = f"{count} processes were launched, and this one cannot join them ({in_brief(failure)})"
        raise ConfigError(f"WORLD_SIZE: {words}; start them with torchrun or accelerate launch") from None
    return Ranks(state.process_index, state.num_processes)


def refuse_ranks(verb: str) -> None:
    """Raises ConfigError where a launcher has started several processes of a verb that would each do the whole work."""
    if (count := _launched_count()) > 1:
        raise ConfigError(
            f"WORLD_SIZE: {count} processes were launched, and `isolora {verb}` runs in one; start it without the launcher "
            "(`isolora train` takes several)"
        )


def _launched_count() -> int:
    count = os.environ.get("WORLD_SIZE", "1")
    return int(count) if count.isdigit() else 1
