"""What TRL's trainers have in common here: rows of tokens in TRL's own columns, its collator and its loss.

Points book the FLOPs of the task, as with every trainer. On a CPU TRL spends more, since its output head takes positions that no
label asks for; a run's checks say how much.
"""

from __future__ import annotations

from abc import abstractmethod
from copy import deepcopy
from typing import TYPE_CHECKING, Any, ClassVar

from datasets import Dataset
from torch import Tensor, nn

from isolora.errors import ConfigError
from isolora.json_types import JsonObject
from isolora.runs.batches import Indices
from isolora.training.backends.trainer_base import StackTrainer
from isolora.training.loop import Loop

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class RowTrainer(StackTrainer):
    """In front of one of TRL's trainers. It is made with a copy of the tokenizer, in which TRL sets special tokens, and then goes
    without, or transformers would give the model's configuration the same."""

    collator: ClassVar[Any]

    def __init__(self, loop: Loop, *given: Any, **more: Any) -> None:
        self.stack = stack = loop.stack
        if not isinstance(stack.base.model.get_output_embeddings(), nn.Linear):
            raise ConfigError(
                "training.trainer: TRL multiplies by the output head's own weight, past what a method adds to it; use hf"
            )
        seen = Dataset.from_list([self.row(0)])  # TRL looks at the columns; batches come from the stack
        more |= {"train_dataset": seen, "data_collator": self.collator(stack.base.pad_id)}
        super().__init__(loop, *given, processing_class=deepcopy(stack.base.tokenizer), **more)
        self.processing_class = None

    @abstractmethod
    def row(self, number: int) -> JsonObject:
        """An example in TRL's columns."""

    @abstractmethod
    def trl_loss(self, model: PreTrainedModel, inputs: JsonObject, share: float) -> Tensor:
        """A micro-batch's part of the step's mean loss."""

    def inputs(self, rows: Indices) -> JsonObject:
        found: JsonObject = self.data_collator([self.row(number) for number in rows])
        return found

    def losses(self, model: PreTrainedModel, inputs: JsonObject, share: float) -> tuple[Tensor, float]:
        loss = self.trl_loss(model, inputs, share)
        for kept in self._metrics.values():  # for logs that are never written
            kept.clear()
        return loss, self.callback.units * float(loss.detach())
