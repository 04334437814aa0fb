"""TRL's DPOTrainer on preference pairs, against the reference scores that are kept with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from isolora.config import RunConfig
from isolora.errors import ConfigError
from isolora.json_types import JsonObject
from isolora.tasks.base import IGNORED, Examples, Task
from isolora.training.backends.base import Trainer
from isolora.training.backends.trainer_base import arguments, run_trainer
from isolora.training.backends.trl_base import RowTrainer
from isolora.training.loop import Loop

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PreferenceTrainer(RowTrainer, DPOTrainer):  # type: ignore[misc]
    collator = DataCollatorForPreference

    def row(self, number: int) -> JsonObject:
        examples = self.stack.examples.train
        assert examples.second is not None
        assert examples.values is not None
        prompt, chosen = parts(examples, number)
        same, rejected = parts(examples.second, number)
        assert prompt == same, "both answers follow one prompt"
        scores = dict(zip(("ref_chosen_logps", "ref_rejected_logps"), examples.values[number].tolist(), strict=True))
        return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected, **scores}

    def trl_loss(self, model: PreTrainedModel, inputs: JsonObject, share: float) -> Tensor:
        loss: Tensor = share * DPOTrainer.compute_loss(self, model, inputs)  # TRL's is the mean over the micro-batch
        return loss

    def _prepare_dataset(self, dataset: object, *_: object) -> Any:
        """TRL tokenises texts here; ours are tokens."""
        return dataset

    def _precompute_ref_logps(self, dataset: object, *_: object) -> Any:
        """TRL scores the reference here; ours come with every example."""
        return dataset


def parts(examples: Examples, number: int) -> tuple[list[int], list[int]]:
    """Prompt and answer; the answer begins behind the first labelled position."""
    place = slice(examples.starts[number], examples.starts[number + 1])
    ids, start = examples.ids[place].tolist(), int((examples.labels[place] != IGNORED).argmax()) + 1
    return ids[:start], ids[start:]


class Dpo(Trainer):
    name = "dpo"
    requires = ("trl",)

    def check(self, config: RunConfig, task: Task) -> None:
        if task.second != "rejected":
            raise ConfigError(f"training.trainer: dpo learns from chosen and rejected answers, and {task.name} has none; use hf")

    def drive(self, loop: Loop) -> None:
        task = loop.stack.task
        settings = DPOConfig(
            **arguments(loop),
            beta=task.settings.beta,
            loss_type=[task.settings.loss_type],
            max_length=None,
            router_aux_loss_coef=0.0,
            disable_dropout=False,  # TRL's way takes it from the kept base for good
            precompute_ref_log_probs=True,
        )
        run_trainer(PreferenceTrainer, settings, loop)


trainer = Dpo()
