"""Sequence classification and regression: one class or one number for a text, or for a pair of texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import softmax
from torch import Tensor

from isolora.errors import DataError, unknown
from isolora.json_types import JsonMapping, JsonObject
from isolora.metrics.classification import GLUE, classification_scores
from isolora.metrics.predictions import Predictions
from isolora.tasks.base import IGNORED, Batch, Batches, Examples, Loss, once_a_batch
from isolora.tasks.class_heads import (
    Classes,
    Classifier,
    class_names,
    class_options,
    head_class,
    inputs,
    label_name,
    label_problem,
    plain_label,
    with_separator,
)
from isolora.tasks.cross_entropy import from_logits
from isolora.tasks.rows import text_problem, usable_rows

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from isolora.data import Documents

CORRELATIONS = ("pearson", "spearman")


class SequenceClassificationSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    glue: Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"] | None = Field(
        None, description="score by this GLUE task's metrics (f1 is that of the second class); accuracy and macro F1 when absent"
    )
    labels: list[str] = Field([], description="all classes in their order; when empty, those of the training documents")
    problem_type: Literal["single_label_classification", "regression"] | None = Field(
        None, description="what labels are: classes, or numbers; when absent, numbers where training documents have fractions"
    )


class SequenceClassification(Classifier):
    """Labels are text, whole numbers or yes and no. Numbers with fractions make it a regression, which has no classes; that is
    logged unless it is asked for."""

    name: ClassVar[str] = "sequence-classification"
    Settings: ClassVar[type[BaseModel]] = SequenceClassificationSettings
    columns: ClassVar[Mapping[str, bool]] = {"text": True, "text_pair": False, "label": True}
    new_head: ClassVar[bool] = True
    labels_per_row: ClassVar[int | None] = 1

    def auto_class(self, architecture: PretrainedConfig) -> str:
        return head_class("SequenceClassification", architecture)

    def model_options(self) -> JsonObject:
        if not self.labels:
            return {**class_options(("value",)), "problem_type": "regression"}
        return {**class_options(self.labels), "problem_type": "single_label_classification"}

    def find_labels(self, documents: Documents) -> list[str]:
        found = [label for label in documents.fields["label"] if label is not None]
        if self._is_regression(found):
            return []
        named = self.settings.labels or class_names(documents.table, "label") or _in_order(found)
        if len(named) < 2:
            raise DataError(f"data: all training documents have the label {', '.join(named)}; there is nothing to tell apart")
        return list(named)

    @property
    def _asked_for_numbers(self) -> bool:
        return bool(self.settings.problem_type == "regression" or (self.settings.glue == "stsb" and not self.settings.labels))

    def _is_regression(self, labels: Sequence[object]) -> bool:
        """Whether labels are numbers to come near, not classes to tell apart."""
        if self._asked_for_numbers or self.settings.problem_type or self.settings.labels:
            return self._asked_for_numbers
        return _fraction(labels) is not None

    def assumption(self, documents: Documents) -> str:
        labels = documents.fields["label"]
        if self._asked_for_numbers or not self._is_regression(labels):
            return ""
        return f"task.problem_type: labels such as {_fraction(labels)} make this a regression; set it to regression to say so"

    @cached_property
    def _classes(self) -> Classes:
        return Classes(self.labels)

    def problem(self, row: JsonMapping) -> str:
        label = plain_label(row["label"])
        if problem := text_problem(row, *(name for name in ("text", "text_pair") if name in row)):
            return problem
        if problem := label_problem(label):
            return problem
        if self._asked_for_numbers or (isinstance(label, float) and not self.labels):
            return "" if _is_number(label) else f"label {label!r} is no number to learn"
        known = not self.labels or self._classes.number(label) is not None
        return "" if known else f"{unknown('label', label_name(label), self.labels)}; task.labels can name them all"

    def examples(self, documents: Documents, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Examples:
        """The label is at the last token, where decoders are asked for it; other heads look where they do."""
        rows = list(usable_rows(self, documents))
        encoded = _encoded(rows, tokenizer, max_length)
        if empty_texts := [place for place, ids in enumerate(encoded["input_ids"]) if not ids]:
            raise DataError(f"data: {documents.origin(empty_texts[0])}: text gives no token with this tokenizer")
        if strange := [] if self.labels else [place for place, row in enumerate(rows) if not _is_number(row["label"])]:
            label = rows[strange[0]]["label"]
            raise DataError(f"data: {documents.origin(strange[0])}: label {label!r} is no number, as those of training are")
        labels = [self._classes.number(row["label"]) if self.labels else float(row["label"]) for row in rows]
        return Examples.of(
            [(ids, [IGNORED] * (len(ids) - 1) + [label]) for ids, label in zip(encoded["input_ids"], labels, strict=True)],
            values=_second_texts(encoded.get("token_type_ids")),
        )

    def loss(self, model: PreTrainedModel, batch: Batch) -> Loss:
        outputs, weights = self.scores(model, batch), batch.row_weights[batch.target_rows]
        if self.labels:
            objective, losses = from_logits(outputs, batch.targets, weights)
            return Loss.of(objective, losses, batch)
        squares = (outputs[:, 0].float() - batch.targets.float()) ** 2
        return Loss.of((squares * weights).sum(), squares.detach(), batch)

    def predictions(
        self,
        model: PreTrainedModel,
        examples: Examples,
        documents: Documents,
        tokenizer: PreTrainedTokenizerBase,
        batches: Batches,
    ) -> Predictions:
        predicted = np.zeros(len(examples), np.int64 if self.labels else np.float64)
        for indices, batch in batches():
            outputs = self.scores(model, batch).float().cpu().numpy()
            predicted[indices] = outputs.argmax(-1) if self.labels else outputs[:, 0]
        true = examples.labels[examples.starts[1:] - 1]
        names = GLUE[self.settings.glue] if self.settings.glue else ("accuracy", "f1_macro") if self.labels else CORRELATIONS
        return Predictions(len(true), lambda rows: classification_scores(names, true[rows], predicted[rows]))

    def unlabelled(self, row: JsonMapping) -> JsonObject:
        own = {name: row[name] for name in ("text", "text_pair") if name in row}
        return {**own, "label": self.labels[0] if self.labels else 0.0}

    def scores(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        found: Tensor = class_scores(model, batch)
        return found

    def classified(self, row: JsonMapping, scores: NDArray[np.float64]) -> JsonObject:
        """`label`, `probability` and the `probabilities` of all classes, likeliest first; of a regression its `value`."""
        if not self.labels:
            return {"value": float(scores[0, 0])}
        shares = softmax(scores[0])
        ranked = {self.labels[place]: float(shares[place]) for place in np.argsort(-shares, kind="stable")}
        label, probability = next(iter(ranked.items()))
        return {"label": label, "probability": probability, "probabilities": ranked}

    def tokens_cut(self, row: JsonMapping, tokenizer: PreTrainedTokenizerBase, max_length: int) -> int:
        return max(0, len(_encoded([row], tokenizer, None)["input_ids"][0]) - max_length)


def _encoded(rows: Sequence[JsonMapping], tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Any:
    """Texts, or pairs of texts, as the tokenizer gives them. max_length: where they are cut; nowhere without one."""
    texts, pairs = [row["text"] for row in rows], None
    if "text_pair" in rows[0]:
        texts, pairs = with_separator(tokenizer, texts), [row["text_pair"] for row in rows]
    cut = {"truncation": max_length is not None, "max_length": max_length}
    return tokenizer(texts, pairs, split_special_tokens=True, verbose=False, **cut)


def _is_number(label: object) -> bool:
    """Whether a regression can learn it."""
    label = plain_label(label)
    return isinstance(label, int | float) and not isinstance(label, bool) and math.isfinite(label) and label != IGNORED


def _in_order(labels: Iterable[object]) -> list[str]:
    """Names of the classes that occur: numbers by size, then texts by their letters."""
    found = {label_name(label): plain_label(label) for label in labels}
    return sorted(found, key=lambda name: (0, found[name], "") if isinstance(found[name], int | float) else (1, 0, name))


def _fraction(labels: Sequence[object]) -> float | None:
    """The first label that is a number between whole ones."""
    numbers = map(plain_label, labels)
    return next((label for label in numbers if isinstance(label, float) and not label.is_integer()), None)


def _second_texts(kinds: list[list[int]] | None) -> Any:
    """Where each pair's second text begins [examples, 1], for tokenizers that tell the two apart."""
    if not kinds or not any(1 in row for row in kinds):
        return None
    return np.array([[row.index(1) if 1 in row else len(row)] for row in kinds], np.float32)


@once_a_batch
def class_scores(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Logits [rows, classes].

    A decoder's head scores every token, and transformers keeps the last that is not the configuration's padding: none may be set,
    it may equal the end of the text, and virtual tokens confuse it. So such scores are taken from the head itself.
    """
    if model.config.is_encoder_decoder:
        return scores_at_the_end(model, batch)
    kept: list[Tensor] = []
    heads = [getattr(model, name) for name in ("score", "classifier") if hasattr(model, name)]
    handles = [head.register_forward_hook(lambda _head, _inputs, outputs: kept.append(outputs)) for head in heads]
    try:
        with some_padding(model.config.get_text_config()):
            logits: Tensor = model(**inputs(batch)).logits
    finally:
        for handle in handles:
            handle.remove()
    pooled_behind = getattr(model.config, "classifier_pooling", None) is not None  # EuroBERT's scores of all tokens are averaged
    if not kept or kept[-1].dim() == 2 or pooled_behind:
        return logits
    return kept[-1][:, -batch.input_ids.shape[1] :].flatten(0, 1).index_select(0, batch.positions)


def scores_at_the_end(model: PreTrainedModel, batch: Batch) -> Tensor:
    """BART's and T5's logits [rows, classes], from the decoder's state at the end of the text.

    Transformers looks for the end by its value, which a rehearsal's tensors do not have, and fails where a text holds another.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    shifted = {"decoder_input_ids": plain._shift_right(batch.input_ids)} if hasattr(plain, "_shift_right") else {}
    states = plain.base_model(**inputs(batch), **shifted)[0]
    logits: Tensor = plain.classification_head(states.flatten(0, 1).index_select(0, batch.positions))
    return logits


@contextmanager
def some_padding(config: Any) -> Iterator[None]:
    """A padding id for the moment where none is set, without which decoders refuse more than one row."""
    before = config.pad_token_id
    config.pad_token_id = 0 if before is None else before
    try:
        yield
    finally:
        config.pad_token_id = before


task = SequenceClassification()
