"""What a task is to the rest of the house: how text becomes examples, and how a model is scored on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IGNORED = -100


@dataclass(frozen=True)
class Examples:
    """Ragged token sequences: example i is `ids[starts[i]:starts[i + 1]]`; `labels` (same layout) is what each position
    predicts, IGNORED where no loss is asked."""

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.starts)

    @cached_property
    def label_counts(self) -> NDArray[np.int64]:
        """Labelled positions of each example."""
        labelled: NDArray[np.int64] = np.concatenate([[0], np.cumsum(self.labels != IGNORED)])
        return labelled[self.starts[1:]] - labelled[self.starts[:-1]]

    def subset(self, chosen: NDArray[np.int64]) -> Examples:
        """The chosen examples, in the order given."""
        places = [np.arange(self.starts[i], self.starts[i + 1]) for i in chosen]
        source: NDArray[np.int64] = np.concatenate([np.arange(0), *places])
        return Examples(self.ids[source], self.labels[source], np.concatenate([[0], np.cumsum(self.lengths[chosen])]))


@dataclass(frozen=True)
class Batch:
    """Padded rows and the positions at which a loss is asked.

    input_ids [rows, length]; positions [labels]: indices into the flattened rows; targets [labels]; target_rows [labels]: the
    row of each; row_weights [rows]: what each row's summed loss counts in the objective.
    """

    input_ids: Tensor
    positions: Tensor
    targets: Tensor
    target_rows: Tensor
    row_weights: Tensor

    def to(self, device: torch.device | str) -> Batch:
        return Batch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True)
class Loss:
    """objective: the scalar to differentiate; row_losses [rows]: summed loss of each row in nats."""

    objective: Tensor
    row_losses: Tensor

    @classmethod
    def of(cls, objective: Tensor, token_losses: Tensor, batch: Batch) -> Loss:
        """Sum token losses [labels] by row."""
        zeros = torch.zeros(len(batch.row_weights), device=token_losses.device)
        return cls(objective, zeros.index_add_(0, batch.target_rows, token_losses))


class Task(ABC):
    """One kind of learning. Adding a task is adding one file to this folder."""

    name: ClassVar[str]
    auto_class: ClassVar[str]
    """The transformers class that loads its models, for example AutoModelForCausalLM."""

    @abstractmethod
    def examples(self, tokens: Examples) -> Examples:
        """Tokenised documents with the labels that the task asks for."""

    @abstractmethod
    def loss(self, model: Any, batch: Batch) -> Loss:
        """Forward pass and loss of one batch."""
