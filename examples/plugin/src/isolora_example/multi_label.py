"""Several labels for one text: every class is asked by itself, and a text may have none, one or all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch.nn.functional import binary_cross_entropy_with_logits

from isolora.extend import (
    IGNORED,
    Batch,
    Batches,
    DataError,
    Examples,
    Loss,
    Predictions,
    Settings,
    Task,
    class_options,
    class_scores,
    classification_scores,
    head_class,
    text_problem,
    unknown,
    usable_rows,
)


class MultiLabelSettings(Settings):
    labels: list[str] = Field([], description="all classes in their order; when empty, those of the training documents")
    threshold: float = Field(0.5, gt=0, lt=1, description="probability from which a class counts as predicted")


class MultiLabel(Task):
    """The loss of a text is the mean of its classes' binary cross-entropies, in nats.

    An example's `values` [classes] are 1 for its labels and 0 for the others. Its one labelled position is its last token, which
    is where the head of a decoder is asked.
    """

    name = "multi-label"
    Settings = MultiLabelSettings
    columns: ClassVar[Mapping[str, bool]] = {"text": True, "labels": True}
    new_head = True
    labels_per_row = 1

    @property
    def value_columns(self) -> int:
        return len(self.labels)

    def auto_class(self, architecture: Any) -> str:
        return head_class("SequenceClassification", architecture)

    def model_options(self) -> dict[str, Any]:
        return {**class_options(self.labels), "problem_type": "multi_label_classification"}

    def find_labels(self, documents: Any) -> list[str]:
        found = self.settings.labels or sorted({label for labels in documents.fields["labels"] for label in labels or ()})
        if not found:
            raise DataError("data: no training document has a label")
        return list(found)

    def problem(self, row: Mapping[str, Any]) -> str:
        labels = row["labels"]
        if not isinstance(labels, list):
            return f"labels holds {type(labels).__name__}, not a list"
        odd = [label for label in labels if self.labels and label not in self.labels]
        return text_problem(row, "text") or (unknown("label", str(odd[0]), self.labels) if odd else "")

    def examples(self, documents: Any, tokenizer: Any, max_length: int) -> Examples:
        rows = list(usable_rows(self, documents))
        encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=max_length)["input_ids"]
        values = [[float(label in row["labels"]) for label in self.labels] for row in rows]
        return Examples.of([(ids, [IGNORED] * (len(ids) - 1) + [0]) for ids in encoded], values=np.array(values, np.float32))

    def loss(self, model: Any, batch: Batch) -> Loss:
        losses = binary_cross_entropy_with_logits(self._scores(model, batch), batch.values, reduction="none").mean(1)
        return Loss.of((losses * batch.row_weights[batch.target_rows]).sum(), losses.detach(), batch)

    def predictions(self, model: Any, examples: Examples, documents: Any, tokenizer: Any, batches: Batches) -> Predictions:
        predicted = np.zeros(examples.values.shape, np.int64)
        for rows, batch in batches():
            predicted[rows] = (self._scores(model, batch).sigmoid() >= self.settings.threshold).cpu().numpy()
        true = examples.values.astype(np.int64)
        return Predictions(len(true), lambda rows: classification_scores(("f1_micro", "f1_macro"), true[rows], predicted[rows]))

    def _scores(self, model: Any, batch: Batch) -> torch.Tensor:
        """Logits [rows, classes]. The head is not told the values, which it would take for the places of second texts."""
        return class_scores(model, replace(batch, values=None)).float()


task = MultiLabel()
