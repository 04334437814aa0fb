"""transformers' Trainer and Seq2SeqTrainer on any task, with the task's own loss."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainingArguments

from isolora.runs.batches import Indices, collate
from isolora.training.backends.trainer_base import Steered, arguments, steer
from isolora.training.loop import Stack


class TaskTrainer(Steered):
    def inputs(self, rows: Indices) -> dict[str, Any]:
        weights = np.full(len(rows), 1 / self.bookkeeper.units)
        return {"batch": collate(self.stack.train_examples, rows, weights, self.stack.pad_id)}

    def losses(self, model: Any, inputs: dict[str, Any], share: float) -> tuple[Tensor, float]:
        loss = self.stack.task.loss(self.stack.attached.model, inputs["batch"].to(self.args.device))
        return loss.objective, float(loss.row_losses.sum())


class Seq2SeqTaskTrainer(TaskTrainer, Seq2SeqTrainer):  # type: ignore[misc]
    """For models with an encoder and a decoder."""


def drive(
    stack: Stack, folder: Path, watching: Callable[[Stack], AbstractContextManager[Any]], after: Callable[[], None]
) -> None:
    two_parts = stack.task.second == "source"
    kind, settings = (Seq2SeqTaskTrainer, Seq2SeqTrainingArguments) if two_parts else (TaskTrainer, TrainingArguments)
    steer(kind, settings(**arguments(stack, folder)), stack, watching, after)
