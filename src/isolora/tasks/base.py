"""What a task is: how documents become examples, what the loss is, and how a model is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache, wraps
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from isolora.errors import DataError
from isolora.json_types import JsonMapping, JsonObject
from isolora.metrics.perplexity import bits_per_byte, perplexity
from isolora.metrics.predictions import Predictions

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

IGNORED = -100


@dataclass(frozen=True, eq=False)
class Examples:
    """Ragged token sequences: example i is `ids[starts[i]:starts[i + 1]]`; `labels` (same layout) is what each position
    predicts, IGNORED where no loss is asked: entries or classes as int32, or scores as float32.

    second: what else an example consists of, one sequence each (an encoder's input, a rejected answer); values [examples, k]:
    numbers that belong to an example (a reference's scores); documents [examples]: the document each was cut from, where one
    document gives several.
    """

    ids: NDArray[np.int32]
    labels: NDArray[Any]
    starts: NDArray[np.int64]
    second: Examples | None = None
    values: NDArray[np.float32] | None = None
    documents: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, rows: Sequence[tuple[Sequence[int], Sequence[Any]]], **more: Any) -> Examples:
        """From (ids, labels) of each example."""
        starts = np.concatenate([[0], np.cumsum([len(ids) for ids, _ in rows])]).astype(np.int64)
        ids = np.array([entry for ids, _ in rows for entry in ids], dtype=np.int32)
        labels = np.array([label for _, labels in rows for label in labels])
        return cls(ids, labels.astype(np.float32 if labels.dtype.kind == "f" else np.int32), starts, **more)

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """One after the other. Of one task, so that they have the same fields; documents keep their own numbers."""
        first, *others = parts
        if not others:
            return first
        offsets = np.cumsum([0, *(part.starts[-1] for part in parts[:-1])])
        starts = [part.starts[:-1] + offset for part, offset in zip(parts, offsets, strict=True)]
        gathered = {
            name: None if getattr(first, name) is None else np.concatenate([getattr(part, name) for part in parts])
            for name in ("ids", "labels", "values", "documents")
        }
        ends: NDArray[np.int64] = np.concatenate([*starts, [sum(len(part.ids) for part in parts)]])
        second = None if first.second is None else cls.joined([part.second for part in parts if part.second is not None])
        return cls(**gathered, starts=ends, second=second)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.starts)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Tokens of each example, its second sequence included."""
        return self.lengths if self.second is None else self.lengths + self.second.lengths

    @cached_property
    def sequence_lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence of each example: [examples, 1 or 2]."""
        sequences = [self.lengths] if self.second is None else [self.lengths, self.second.lengths]
        return np.stack(sequences, axis=1)

    @cached_property
    def label_counts(self) -> NDArray[np.int64]:
        """Labelled positions of each example, its second sequence included."""
        labelled: NDArray[np.int64] = np.concatenate([[0], np.cumsum(self.labels != IGNORED)])
        own = labelled[self.starts[1:]] - labelled[self.starts[:-1]]
        return own if self.second is None else own + self.second.label_counts

    def subset(self, chosen: NDArray[np.int64]) -> Examples:
        """The chosen examples, in the order given."""
        places = [np.arange(self.starts[i], self.starts[i + 1]) for i in chosen]
        source: NDArray[np.int64] = np.concatenate([np.arange(0), *places])
        return Examples(
            self.ids[source],
            self.labels[source],
            np.concatenate([[0], np.cumsum(self.lengths[chosen])]),
            None if self.second is None else self.second.subset(chosen),
            None if self.values is None else self.values[chosen],
            None if self.documents is None else self.documents[chosen],
        )


@dataclass(frozen=True)
class Batch:
    """Padded rows and the positions at which a loss is asked.

    input_ids [rows, length]; positions [labels]: indices into the flattened rows; targets [labels]; target_rows [labels]: the
    row of each; row_weights [rows]: what each row's summed loss counts in the objective; lengths [rows]: without padding.
    second, values: as in Examples. kept: scores of this batch, for whoever asks for them again (see `once_a_batch`); None where
    nothing is kept.
    """

    input_ids: Tensor
    positions: Tensor
    targets: Tensor
    target_rows: Tensor
    row_weights: Tensor
    lengths: Tensor
    second: Batch | None = None
    values: Tensor | None = None
    kept: JsonObject | None = None

    def to(self, device: torch.device | str) -> Batch:
        parts = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "kept"}
        moved: JsonObject = {name: None if part is None else part.to(device) for name, part in parts.items()}
        return Batch(**moved)

    def keeping(self) -> Batch:
        """The same, on which scores are made once: for a loss and answers under the same weights."""
        return replace(self, kept={})

    @property
    def attention_mask(self) -> Tensor:
        """1 at tokens, 0 at padding: [rows, length]."""
        places = torch.arange(self.input_ids.shape[1], device=self.lengths.device)
        return (places < self.lengths[:, None]).long()


def padding_id(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> int:
    """The entry that fills a batch's shorter rows, of those that the model has an embedding for: the tokenizer's padding, else
    its end, which is left out when generated texts are read, else any."""
    known = range(model.config.get_text_config().vocab_size)
    named = (getattr(tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
    return next((int(entry) for entry in named if entry is not None and entry in known), 0)


def once_a_batch(scores: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a model and, last, a batch, whose outcome a batch may keep: an evaluation's loss and answers then take one
    forward pass."""

    @wraps(scores)
    def kept(*given: Any) -> Any:
        known = given[-1].kept
        if known is None:
            return scores(*given)
        if scores.__qualname__ not in known:
            known[scores.__qualname__] = scores(*given)
        return known[scores.__qualname__]

    return kept


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


Batches = Callable[[], Iterator[tuple[NDArray[np.int64], Batch]]]
"""Passes over held-out examples: (their numbers, their batch on the model's device)."""


class NoSettings(BaseModel):
    """A task that has no fields of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Task(ABC):
    """One kind of learning. Adding a task is adding one file to this folder.

    labels: names of the classes, found in the training documents; empty where the task knows none. architecture: the transformers
    configuration of the run's model; None in a task that no run has bound yet.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[BaseModel]] = NoSettings
    columns: ClassVar[Mapping[str, bool]] = {}
    """Columns that a document needs (True) or may have (False); none: its text."""
    either: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Of the columns that it may have, sets of which it needs one, where it is read in several forms."""
    new_head: ClassVar[bool] = False
    """Whether the model's head is made for the task and trained beside the adapter."""
    labels_per_row: ClassVar[int | None] = None
    """How many labels every example has, where that is fixed."""
    uses_reference: ClassVar[bool] = False
    """Whether every example's `values` are scores under the bare base, taken once before training (see `reference`)."""
    predicts_tokens: ClassVar[bool] = False
    """Whether its loss is a language model's, so that it has a perplexity."""
    mean_over: ClassVar[str] = "labels"
    """What a loss is the mean over: "labels" or "examples"."""

    def __init__(self, settings: Any = None, labels: Sequence[str] = (), architecture: PretrainedConfig = None) -> None:
        self.settings: Any = self.Settings() if settings is None else settings
        self.labels = tuple(labels)
        self.architecture = architecture

    def bound(self, settings: Any, labels: Sequence[str] = (), architecture: PretrainedConfig = None) -> Self:
        """The task with its settings, its classes and its model's architecture."""
        return type(self)(settings, labels, architecture)

    @property
    def second(self) -> str | None:
        """What an example's second sequence is, where it has one: "source" (an encoder's input) or "rejected"."""
        return None

    @property
    def packs(self) -> bool:
        """Whether an example may hold several documents; `labels_by_document` then knows where each of them is."""
        return False

    @property
    def value_columns(self) -> int:
        """How many `values` every example needs for its loss; a rehearsal is given so many zeros."""
        return 2 if self.uses_reference else 0

    @property
    def scored_at(self) -> str:
        """When `predictions` are taken: at "points", or at the "end" where it is slow."""
        return "points"

    @abstractmethod
    def auto_class(self, architecture: PretrainedConfig) -> str:
        """The transformers class that loads its models, for example AutoModelForCausalLM. Raises ConfigError where the
        architecture has none."""

    def check_model(self, model: PreTrainedModel) -> None:
        """Raises ConfigError where a loaded model cannot do what the settings ask for."""

    def model_options(self) -> JsonObject:
        """What the model's configuration has to know, such as the number of classes."""
        return {}

    def find_labels(self, documents: Any) -> list[str]:
        """The classes in training documents."""
        return []

    def assumption(self, documents: Any) -> str:
        """What is taken from training documents without having been asked for, as a line to say; empty where nothing is."""
        return ""

    def problem(self, row: JsonMapping) -> str:
        """Why the task cannot use a document with these columns, in a few words; empty where it can."""
        return ""

    @abstractmethod
    def examples(self, documents: Any, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Examples:
        """Documents as token sequences with the labels that the task asks for, each of at most `max_length` tokens."""

    def labels_by_document(self, examples: Examples, count: int) -> NDArray[np.int64]:
        """Labelled positions that each of `count` documents gives. One without any cannot be learnt from."""
        numbers = np.arange(len(examples)) if examples.documents is None else examples.documents
        return np.bincount(numbers, examples.label_counts, count).astype(np.int64)

    def nothing_to_learn(self, max_length: int) -> str:
        """Why a document gives no label, in a few words."""
        return f"nothing to learn within {max_length} tokens (data.max_length)"

    @abstractmethod
    def loss(self, model: PreTrainedModel, batch: Batch) -> Loss:
        """Forward pass and loss of one batch."""

    def units(self, examples: Examples) -> NDArray[np.int64]:
        """How much each example weighs in a mean loss."""
        return examples.label_counts if self.mean_over == "labels" else np.ones(len(examples), dtype=np.int64)

    def reference(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """Scores [rows, k] of a batch under the bare base, for tasks that use a reference."""
        raise NotImplementedError(self.name)

    def prompt_ids(self, text: str, tokenizer: PreTrainedTokenizerBase, room: int) -> list[int]:
        """A person's prompt as the model has learnt to read one; where the task cuts prompts, to `room` tokens."""
        ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def labelled_text(self, ids: NDArray[np.int32], labels: NDArray[Any], tokenizer: PreTrainedTokenizerBase) -> str:
        """The part of an example that carries loss, for a person to read: the tokens that are predicted, or the names of the
        classes. ids, labels [tokens]: as in Examples."""
        asked = labels[labels != IGNORED]
        if self.labels:
            return " ".join(self.labels[int(label)] for label in asked)
        if asked.dtype.kind == "f":
            return " ".join(f"{label:g}" for label in asked)
        return str(tokenizer.decode(asked))

    def restated(self, loss: float, examples: Examples, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
        """A held-out loss in the field's other units, which cost nothing more."""
        if not self.predicts_tokens:
            return {}
        tokens = int(examples.label_counts.sum())
        per_byte = bits_per_byte(loss, tokens, predicted_bytes(examples, tokenizer))
        return {"perplexity": perplexity(loss), "bits_per_byte": per_byte}

    def predictions(
        self, model: PreTrainedModel, examples: Examples, documents: Any, tokenizer: PreTrainedTokenizerBase, batches: Batches
    ) -> Predictions:
        """What the model answers on held-out examples, with the field's own measures; the first one is the task's main one."""
        return Predictions(0, lambda rows: {})


@lru_cache(maxsize=4)
def predicted_bytes(examples: Examples, tokenizer: PreTrainedTokenizerBase) -> int:
    """UTF-8 bytes of all text that is predicted: without first tokens, which are given, and without marks such as ends."""
    rows = np.split(examples.labels, examples.starts[1:-1])
    texts = tokenizer.batch_decode([row[row != IGNORED] for row in rows], skip_special_tokens=True)
    return sum(len(text.encode()) for text in texts)


def stated_positions(config: PretrainedConfig) -> int | None:
    """The most positions that a text configuration allows; None where it states none (relative ones), or -1 as XLNet does."""
    bound: int = getattr(config, "max_position_embeddings", None) or 0
    return bound if bound > 0 else None


def problem_of(task: Task, row: JsonMapping) -> str:
    """Why the task cannot use a row, its templates included; empty where it can."""
    try:
        return task.problem(row)
    except DataError as failure:
        return str(failure)
