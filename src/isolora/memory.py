"""Peak memory of a training step, before it is run."""

from __future__ import annotations

import torch
from torch import Tensor

from isolora import models
from isolora.config import RunConfig
from isolora.ledger import Ledger, Shape
from isolora.rehearsal import Bookkeeper, attach, storage, task_batch, weight_groups


def peak_bytes(config: RunConfig, price: Ledger, shape: Shape) -> int:
    """Float32 weights, adapter with gradient, two AdamW moments and average, and the activations of one such step.

    A first form: no allocator's slack, no work space of kernels, full attention scores as the unfused kernel keeps them.
    """
    task = models.bound_task(config, ("0", "1"))
    base = models.skeleton(config, task)
    groups = weight_groups(base.model)
    attached = attach(config, task, base.model)
    kept = Kept({storage(weight) for weight in attached.model.parameters()})
    batch = task_batch(task, shape, "meta")
    with Bookkeeper(attached.model, groups), torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
        task.loss(attached.model, batch)
    return 4 * (price.model_parameters + 5 * price.trainable_parameters) + sum(kept.sizes.values())


class Kept:
    """Sizes in bytes of the storages that autograd keeps, each once; parameters are counted elsewhere."""

    def __init__(self, parameters: set[int]) -> None:
        self.parameters = parameters
        self.sizes: dict[int, int] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        if storage(tensor) not in self.parameters:
            self.sizes[storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor
