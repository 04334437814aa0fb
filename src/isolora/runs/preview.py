"""Preview: what the model will see of a run's data, before it is trained. Needs a tokenizer, no weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isolora import models
from isolora.config import RunConfig
from isolora.json_types import JsonObject
from isolora.runs.document_loader import RunDocuments
from isolora.runs.prepared import RunExamples, max_length
from isolora.tasks.base import IGNORED, Examples, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Preview:
    """splits: documents of each; left_out: rows that cannot be used, and why; lengths: tokens of training examples; at_limit:
    training examples as long as `max_length`, most of them cut; classes: training labels by class; rows: the first examples;
    remark: what differs from what was asked for."""

    splits: dict[str, int]
    train_examples: int
    held_out_examples: int
    left_out: tuple[str, ...]
    max_length: int
    lengths: dict[str, float]
    labelled_share: float
    at_limit: int
    classes: dict[str, int]
    rows: tuple[JsonObject, ...]
    remark: str = ""

    def to_json(self) -> JsonObject:
        return asdict(self)

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {count:,}" for name, count in self.splits.items())
        lengths = ", ".join(f"{name} {value:g}" for name, value in self.lengths.items())
        lines = [
            f"documents      {sizes}",
            f"examples       train {self.train_examples:,}, held out {self.held_out_examples:,}",
            f"tokens         {lengths}; {self.labelled_share:.0%} carry loss",
            f"at the limit   {self.at_limit:,} of {self.train_examples:,} examples have {self.max_length} tokens or were cut",
            f"left out       {len(self.left_out):,} rows" + "".join(f"\n               {row}" for row in self.left_out[:5]),
        ]
        lines += [f"mind           {self.remark}"] if self.remark else []
        if self.classes:
            shown = ", ".join(f"{name} {count:,}" for name, count in list(self.classes.items())[:20])
            lines.append(f"classes        {len(self.classes)}: {shown}")
        for number, row in enumerate(self.rows, 1):
            lines += ["", f"example {number}, {row['tokens']} tokens", _indented(row["text"])]
            lines += ["  carries loss:", _indented(row["labelled_text"])]
        return "\n".join(lines)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines() or [""])


def preview(config: RunConfig, count: int = 3) -> Preview:
    """The splits of a run's data, what was left out or cut, and the first `count` training examples as the model sees them."""
    documents = RunDocuments.load(config)
    tokenizer, positions = models.load_tokenizer(config), models.positions(models.load_architecture(config))
    examples = RunExamples.of(documents, tokenizer, positions)
    train, limit, splits = examples.train, max_length(config, positions), documents.splits
    sizes = train.lengths
    return Preview(
        splits={name: len(getattr(splits, name)) for name in ("train", "validation", "test")},
        train_examples=len(train),
        held_out_examples=len(examples.held_out.examples),
        left_out=examples.left_out,
        max_length=limit,
        lengths={"mean": round(float(sizes.mean()), 1), "median": float(np.median(sizes)), "max": int(sizes.max())},
        labelled_share=float(train.label_counts.sum() / train.sizes.sum()),
        at_limit=int((sizes >= limit).sum()),
        classes=_classes(documents.task, train),
        rows=tuple(_row(documents.task, train, number, tokenizer) for number in range(min(count, len(train)))),
        remark=documents.remark,
    )


def _classes(task: Task, examples: Examples) -> dict[str, int]:
    """How often each class is a label, the commonest first."""
    if not task.labels:
        return {}
    counts = Counter(examples.labels[examples.labels != IGNORED].tolist())
    names = dict(enumerate(task.labels))  # a plug-in's task may predict numbers beside its named classes
    return {names.get(int(label), str(label)): count for label, count in counts.most_common()}


def _row(task: Task, examples: Examples, number: int, tokenizer: PreTrainedTokenizerBase) -> JsonObject:
    """An example as text. Its second sequence is what an encoder reads, or a rejected answer."""
    ids, labels = _at(examples, number)
    row = {"text": tokenizer.decode(ids), "labelled_text": task.labelled_text(ids, labels, tokenizer), "tokens": len(ids)}
    if examples.second is not None and task.second is not None:
        second_ids, second_labels = _at(examples.second, number)
        row[f"{task.second}_text"] = tokenizer.decode(second_ids)
        if (second_labels != IGNORED).any():
            row[f"{task.second}_labelled_text"] = task.labelled_text(second_ids, second_labels, tokenizer)
    return row


def _at(examples: Examples, number: int) -> tuple[Any, Any]:
    place = slice(examples.starts[number], examples.starts[number + 1])
    return examples.ids[place], examples.labels[place]
