"""TRL's SFTTrainer on tasks whose decoder predicts next tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, tensor
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from isolora.config import RunConfig
from isolora.errors import ConfigError
from isolora.json_types import JsonObject
from isolora.tasks.base import IGNORED, Task
from isolora.training.backends.base import Trainer
from isolora.training.backends.trainer_base import arguments, run_trainer
from isolora.training.backends.trl_base import RowTrainer
from isolora.training.loop import Loop

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class NextTokenTrainer(RowTrainer, SFTTrainer):  # type: ignore[misc]
    collator = DataCollatorForLanguageModeling

    def row(self, number: int) -> dict[str, list[int]]:
        """Labels stand at the tokens that they ask for, not one before."""
        examples = self.stack.examples.train
        place = slice(examples.starts[number], examples.starts[number + 1])
        return {"input_ids": examples.ids[place].tolist(), "labels": [IGNORED, *examples.labels[place].tolist()[:-1]]}

    def trl_loss(self, model: PreTrainedModel, inputs: JsonObject, share: float) -> Tensor:
        loss: Tensor = SFTTrainer.compute_loss(self, model, inputs, num_items_in_batch=tensor(self.callback.units))
        return loss


class Sft(Trainer):
    name = "sft"
    requires = ("trl",)

    def check(self, config: RunConfig, task: Task) -> None:
        if task.second is not None or task.auto_class(task.architecture) != "AutoModelForCausalLM":
            raise ConfigError(
                f"training.trainer: sft trains decoders on next tokens, and {task.name} is something else here; use hf"
            )
        if getattr(task.settings, "packing", False):
            raise ConfigError("training.trainer: sft would let packed documents see each other; use hf, or task.packing=no")

    def drive(self, loop: Loop) -> None:
        settings = SFTConfig(
            **arguments(loop),
            max_length=None,
            router_aux_loss_coef=0.0,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        run_trainer(NextTokenTrainer, settings, loop)


trainer = Sft()
