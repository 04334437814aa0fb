"""What a method is to the rest of the house: it attaches adapters to a base model and knows how to keep them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from isolora.errors import ConfigError, DataError
from isolora.json_types import JsonMapping, JsonObject

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Span = tuple[int, int, int]
"""(member, first row, row after the last): these rows of a batch are computed with this member's adapter.

`[(0, 0, 2), (1, 2, 3)]` gives rows 0 and 1 to member 0, row 2 to member 1. -1 as the last row means all rows; `[]` the bare base.
"""


@dataclass(frozen=True)
class ParameterGroup:
    """Trained parameters that share one learning rate: the run's, times a ratio. heads: they are a task's new head, which the
    run gives a rate of its own."""

    parameters: list[nn.Parameter]
    learning_rate_ratio: float = 1.0
    heads: bool = False

    @classmethod
    def split(cls, parameters: Iterable[nn.Parameter], heads: Iterable[nn.Parameter]) -> list[ParameterGroup]:
        """The adapter's parameters and, where there are any, those of heads, each once."""
        heads = list(heads)
        new = set(heads)
        own = [parameter for parameter in parameters if parameter not in new]
        return [group for group in (cls(own), cls(heads, heads=True)) if group.parameters]


class Attached(ABC):
    """The adapters of K members on one frozen base model."""

    model: PreTrainedModel
    members: int

    @abstractmethod
    def groups(self, member: int) -> list[ParameterGroup]:
        """What the optimiser updates for one member."""

    @abstractmethod
    def rows(self, spans: Sequence[Span]) -> AbstractContextManager[None]:
        """Within the context, these rows of the batch belong to these members; rows between spans see the bare base.

        No spans: the bare base everywhere. The last span ends with the batch. The backward pass belongs inside too: recomputed
        layers ask for their rows again.
        """

    def all_rows(self, member: int) -> AbstractContextManager[None]:
        """As `rows`, for batches that are one member's, however many rows its layers make of them."""
        return self.rows([(member, 0, -1)])

    def rows_of(self, counts: Mapping[int, int]) -> AbstractContextManager[None]:
        """As `rows`, for members with so many rows each, one after the other."""
        if self.members == 1:
            return self.all_rows(0)
        stops = list(accumulate(counts.values()))
        return self.rows([(k, stop - count, stop) for (k, count), stop in zip(counts.items(), stops, strict=True)])

    @abstractmethod
    def save(self, member: int, folder: Path) -> None:
        """Write one member's adapter, safetensors and JSON only."""

    @abstractmethod
    def merge(self, member: int) -> Any:
        """Fold one member into the base weights, remove the adapters, and return the plain model."""

    @abstractmethod
    def detach(self) -> None:
        """Give the base model back as it was."""

    @contextmanager
    def detached_on_error(self) -> Iterator[None]:
        """Within the context, a DataError gives the base model back before it goes on."""
        try:
            yield
        except DataError:
            self.detach()
            raise

    def extra_loss(self) -> Tensor | None:
        """What the method adds to the loss of the batch just seen, such as a regulariser; called inside `rows`."""
        return None

    def after_step(self, member: int, spent: float) -> None:
        """Called after every optimiser step while gradients are still there; spent: share of the budget used up."""

    def facts(self, member: int) -> JsonObject:
        """What training decided about the adapter itself, such as final ranks; kept in its record. JSON values."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Tensors beside the weights that an exact resume has to restore."""
        return {}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state` gave."""

    def train(self, on: bool) -> None:
        """Switch what only training does, such as dropout, on or off."""
        self.model.train(on)

    def generators(self) -> JsonObject:
        """Random generators (torch.Generator) that an exact resume has to restore; `NAME.2` is member 2's own."""
        return {}

    def trainable_parameters(self, member: int) -> int:
        return sum(p.numel() for group in self.groups(member) for p in group.parameters)

    def tensors(self, member: int) -> list[Tensor]:
        return [p for group in self.groups(member) for p in group.parameters]


class Method(ABC):
    """One way to adapt a model. `Settings` describes the method's own fields of a run.

    What a method can do is declared here, so that the rest of the house asks for capabilities and never for names.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[Any]]
    stackable: ClassVar[bool] = False
    """Whether several members train side by side on one base; `attach` then takes more than one."""
    own_in_stack: ClassVar[frozenset[str]] = frozenset()
    """Fields in which members of one stack may differ."""
    mergeable: ClassVar[bool] = False
    """Whether the adapter can be folded into the base's weights without changing what is computed."""
    needs_weights: ClassVar[bool] = False
    """Whether attaching or training computes with the base's values, so that even a rehearsal needs some."""
    position_aware: ClassVar[bool] = True
    """Whether documents packed into one row stay unseen by each other: the method passes position_ids on to the base."""

    @property
    def has_rank(self) -> bool:
        """Whether `rank` is a field of the method, so that a study can vary it and a recommendation name it."""
        return "rank" in self.Settings.model_fields

    def check_packing(self, packed: bool) -> None:
        """Raises ConfigError where a run packs documents and the method would let them see each other."""
        if packed and not self.position_aware:
            raise ConfigError(
                f"task.packing: method {self.name} drops the positions that keep packed documents apart; use task.packing=no"
            )

    @abstractmethod
    def attach(self, model: PreTrainedModel, members: Sequence[Any], seeds: Sequence[int], heads: bool = False) -> Attached:
        """Freeze the model and attach one adapter per member; its initial weights depend on its seed alone.

        heads: the modules on top of the body are new: trained and saved with the adapter. Raises ConfigError, one line, where
        the method is not defined for this model.
        """

    @abstractmethod
    def load(self, model: PreTrainedModel, folder: Path, heads: bool = False) -> Attached:
        """Attach the saved adapter in `folder` as a single member. Raises DataError where it does not fit."""

    def model_options(self, settings: Any) -> JsonObject:
        """What `from_pretrained` is given besides, such as a quantisation."""
        return {}

    def after_loading(self, model: PreTrainedModel) -> None:
        """Called with every model that has just been loaded for this method."""

    def virtual_tokens(self, settings: Any) -> int:
        """Positions that every sequence loses to the method."""
        return 0

    def stored_bytes(self, settings: Any, name: str, layer: Any) -> float | None:
        """Bytes in which the method keeps the own weights of a frozen layer of this full name; None: their plain size."""
        return None

    def settings(self, fields: JsonMapping) -> Any:
        return self.Settings(**fields)
