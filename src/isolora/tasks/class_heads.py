"""What the tasks share whose models have a head of their own: which class loads the model, what it is given, the classes that it
tells apart, and windows over long texts."""

from __future__ import annotations

import json
import math
import unicodedata
from abc import abstractmethod
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor

from isolora.errors import ConfigError
from isolora.json_types import JsonMapping, JsonObject
from isolora.tasks.base import Batch, Task
from isolora.tasks.rows import is_blank

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


class Classifier(Task):
    """A task that can be asked about texts whose labels nobody knows (`isolora classify`)."""

    label_columns: ClassVar[tuple[str, ...]] = ("label",)
    """Of its columns those that hold labels."""

    @abstractmethod
    def unlabelled(self, row: JsonMapping) -> JsonObject:
        """The row as a document of the task, with any label wherever one is asked for."""

    @abstractmethod
    def scores(self, model: PreTrainedModel, batch: Batch) -> Tensor:
        """What the head gives [labels, classes] at the labelled positions of a batch, before any softmax."""

    @abstractmethod
    def classified(self, row: JsonMapping, scores: NDArray[np.float64]) -> JsonObject:
        """What a document's scores [labels, classes] mean, for a person and for JSON."""

    def tokens_cut(self, row: JsonMapping, tokenizer: PreTrainedTokenizerBase, max_length: int) -> int:
        """How many tokens at the end of a document are not read."""
        return 0


def head_class(kind: str, architecture: PretrainedConfig) -> str:
    """The auto class of a kind of head, such as TokenClassification. Raises ConfigError where the architecture has none."""
    name = f"AutoModelFor{kind}"
    known = type(architecture) in getattr(transformers, name)._model_mapping
    if known or name in (getattr(architecture, "auto_map", None) or {}):
        return name
    raise ConfigError(f"model: transformers has no {kind} head for {architecture.model_type}")


def inputs(batch: Batch) -> dict[str, Tensor]:
    """What the model's forward is given; `values` [rows, 1], where there are any, is where a pair's second text begins."""
    given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if batch.values is not None:
        places = torch.arange(batch.input_ids.shape[1], device=batch.values.device)
        given["token_type_ids"] = ((places >= batch.values) & (given["attention_mask"] == 1)).long()
    return given


def with_separator(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[str]:
    """The first texts of pairs, each with a line break behind it where the tokenizer puts nothing between two texts."""
    return texts if None in tokenizer("a", "b").sequence_ids()[1:-1] else [f"{text}\n" for text in texts]


def plain_label(label: object) -> object:
    """A label, decimal numbers as databases write them (1.50) like any others."""
    return float(label) if isinstance(label, Decimal) else label


def label_name(label: object) -> str:
    """A label as text: white space around it is no part of a class's name, an accent is the same whether it is a character of its
    own or not, and 1.0, as tables with gaps have it, is 1."""
    label = plain_label(label)
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return unicodedata.normalize("NFC", str(label).strip())


def label_problem(label: object) -> str:
    """Why a value is no label, in a few words; empty where it is one."""
    label = plain_label(label)
    if label is None or (isinstance(label, float) and math.isnan(label)):
        return "label holds nothing"
    if not isinstance(label, str | int | float | date):
        return f"label holds {type(label).__name__}; a row has one label"
    return "label is empty" if is_blank(label_name(label)) else ""


class Classes:
    """Label to class number. A whole number is the class number itself, unless the classes have numbers for names."""

    def __init__(self, names: Sequence[str]) -> None:
        self._numbers = {label_name(name): number for number, name in enumerate(names)}
        self._named = not any(name.removeprefix("-").isdecimal() for name in names)

    def number(self, label: Any) -> int | None:
        """The number of a label's class; None where there is no such class."""
        label, name = plain_label(label), label_name(label)
        if name in self._numbers:
            return self._numbers[name]
        whole = type(label) is int or (isinstance(label, float) and label.is_integer())
        return int(label) if self._named and whole and 0 <= label < len(self._numbers) else None


def class_names(table: pa.Table, column: str) -> list[str]:
    """Names of an integer column's classes where the file carries them, as `datasets` writes them; else none."""
    try:
        features = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, LookupError, TypeError):  # a file that carries none, or something else under that name
        return []
    for name, feature in features.items():
        inner = feature.get("feature", feature)
        if "names" in inner and name in table.column_names and table[name].equals(table[column]):
            return list(inner["names"])
    return []


def class_options(labels: Sequence[str]) -> JsonObject:
    """What a model's configuration is told about its classes."""
    return {"id2label": dict(enumerate(labels)), "label2id": {label: number for number, label in enumerate(labels)}}


Window = tuple[int, int]
"""First token, token after the last."""


def answer_windows(tokens: int, room: int, overlap: float) -> list[Window]:
    """Windows of at most `room` tokens that cover a text of `tokens`; each sees a share `overlap` of the one before again."""
    if room < 1:
        raise ConfigError("data.max_length: leaves no room for a text beside the special tokens")
    step = max(1, room - int(overlap * room))
    return [(start, min(start + room, tokens)) for start in range(0, max(1, tokens - room + step), step)]


def scored_parts(cut: list[Window]) -> list[Window]:
    """For each window the tokens that are scored there, where they have most context: up to the middle of what it shares with the
    next window."""
    middles = [(stop + start) // 2 for (_, stop), (start, _) in pairwise(cut)]
    return list(zip([0, *middles], [*middles, cut[-1][1]], strict=True))
