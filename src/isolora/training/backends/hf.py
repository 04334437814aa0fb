"""transformers' Trainer and Seq2SeqTrainer on any task, with the task's own loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainingArguments

from isolora.json_types import JsonObject
from isolora.runs.batches import Indices, collate
from isolora.training.backends.base import Trainer
from isolora.training.backends.trainer_base import StackTrainer, arguments, run_trainer
from isolora.training.loop import Loop

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TaskTrainer(StackTrainer):
    def inputs(self, rows: Indices) -> JsonObject:
        weights = np.full(len(rows), 1 / self.callback.units)
        return {"batch": collate(self.stack.examples.train, rows, weights, self.stack.base.pad_id)}

    def losses(self, model: PreTrainedModel, inputs: JsonObject, share: float) -> tuple[Tensor, float]:
        loss = self.stack.task.loss(self.stack.attached.model, inputs["batch"].to(self.args.device))
        return loss.objective, float(loss.row_losses.sum())


class Seq2SeqTaskTrainer(TaskTrainer, Seq2SeqTrainer):  # type: ignore[misc]
    """For models with an encoder and a decoder."""


class Hf(Trainer):
    name = "hf"

    def drive(self, loop: Loop) -> None:
        two_parts = loop.stack.task.second == "source"
        kind, settings = (Seq2SeqTaskTrainer, Seq2SeqTrainingArguments) if two_parts else (TaskTrainer, TrainingArguments)
        run_trainer(kind, settings(**arguments(loop)), loop)


trainer = Hf()
