"""What a method is to the rest of the house: it attaches adapters to a base model and knows how to keep them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

Span = tuple[int, int, int]
"""(member, first row, row after the last) of a batch."""


@dataclass(frozen=True)
class ParameterGroup:
    """Trained parameters that share one learning rate: the run's, times a ratio."""

    parameters: list[nn.Parameter]
    learning_rate_ratio: float = 1.0


class Attached(ABC):
    """The adapters of K members on one frozen base model."""

    model: Any
    members: int

    @abstractmethod
    def groups(self, member: int) -> list[ParameterGroup]:
        """What the optimiser updates for one member."""

    @abstractmethod
    def rows(self, spans: Sequence[Span]) -> AbstractContextManager[None]:
        """Within the context, these rows of the batch belong to these members; rows between spans see the bare base.

        The last span ends with the batch. The backward pass belongs inside too: recomputed layers ask for their rows again.
        """

    @abstractmethod
    def save(self, member: int, folder: Path) -> None:
        """Write one member's adapter, safetensors and JSON only."""

    @abstractmethod
    def merge(self, member: int) -> Any:
        """Fold one member into the base weights, remove the adapters, and return the plain model."""

    @abstractmethod
    def detach(self) -> None:
        """Give the base model back as it was."""

    def train(self, on: bool) -> None:
        """Switch what only training does, such as dropout, on or off."""
        self.model.train(on)

    def generators(self) -> dict[str, Any]:
        """Random generators (torch.Generator) that an exact resume has to restore."""
        return {}

    def trainable_parameters(self, member: int) -> int:
        return sum(p.numel() for group in self.groups(member) for p in group.parameters)

    def tensors(self, member: int) -> list[Tensor]:
        return [p for group in self.groups(member) for p in group.parameters]


class Method(ABC):
    """One way to adapt a model. `Settings` describes the method's own fields of a run."""

    name: ClassVar[str]
    Settings: ClassVar[type[Any]]
    stackable: ClassVar[bool] = False
    own_in_stack: ClassVar[frozenset[str]] = frozenset()
    """Fields in which members of one stack may differ."""
    mergeable: ClassVar[bool] = False

    @abstractmethod
    def attach(self, model: Any, members: Sequence[Any], seeds: Sequence[int]) -> Attached:
        """Freeze the model and attach one adapter per member; its initial weights depend on its seed alone."""

    @abstractmethod
    def load(self, model: Any, folder: Path) -> Attached:
        """Attach the saved adapter in `folder` as a single member."""

    def settings(self, fields: Mapping[str, Any]) -> Any:
        return self.Settings(**fields)
