"""What a task gives back, held against its contract where it comes in: once for examples, and for the first loss of a kind.

Without it a wrong shape shows deep inside a sum, blamed on nobody, or not at all: labels beyond the classes and losses of other
rows train without an error.
"""

from __future__ import annotations

import numpy as np
import torch

from isolora.registry import owed
from isolora.tasks.base import IGNORED, Examples, Loss, Task


def checked_examples(task: Task, examples: Examples, documents: int, max_length: int) -> Examples:
    """The same examples. Raises PlugInError, one line, where they are not what `Task.examples` promises."""
    found = type(examples).__name__
    owed("task", task.name, isinstance(examples, Examples), f"examples() gave {found}; expected Examples")
    _demand_layout(task, examples, "")
    if examples.second is not None:
        _demand_layout(task, examples.second, "second.")
    longest = int(examples.lengths.max(initial=0))
    owed("task", task.name, longest <= max_length, f"examples() gave {longest} tokens; expected at most max_length, {max_length}")
    _demand_documents(task, examples, documents)
    _demand_classes(task, examples)
    _demand_values(task, examples)
    return examples


def _demand_layout(task: Task, examples: Examples, where: str) -> None:
    ids, labels, starts = np.asarray(examples.ids), np.asarray(examples.labels), np.asarray(examples.starts)
    same = ids.ndim == labels.ndim == 1 and len(ids) == len(labels)
    owed(
        "task",
        task.name,
        same,
        f"examples() gave {where}ids {ids.shape} and {where}labels {labels.shape}; expected one label a token",
    )
    spans = (
        starts.ndim == 1 and len(starts) > 0 and starts[0] == 0 and starts[-1] == len(ids) and bool((np.diff(starts) >= 0).all())
    )
    owed("task", task.name, spans, f"examples() gave {where}starts that do not lead from 0 to the {len(ids)} tokens")
    owed("task", task.name, not len(ids) or int(ids.min()) >= 0, f"examples() gave a token id below 0 in {where}ids")


def _demand_documents(task: Task, examples: Examples, documents: int) -> None:
    numbers = examples.documents
    if numbers is None:
        kept = len(task.labels_by_document(examples, documents) if task.packs else examples) == documents
        expected = f"one for each of {documents} documents, or their numbers in `documents`"
    else:
        kept = len(numbers) == len(examples) and (not len(numbers) or 0 <= int(numbers.min()) <= int(numbers.max()) < documents)
        expected = f"as many numbers of documents below {documents}"
    owed("task", task.name, kept, f"examples() gave {len(examples)} examples; expected {expected}")


def _demand_classes(task: Task, examples: Examples) -> None:
    """Whole-number labels of a task that names classes are their numbers."""
    asked = examples.labels[examples.labels != IGNORED]
    if task.labels and asked.dtype.kind in "iu" and len(asked):
        low, high, count = int(asked.min()), int(asked.max()), len(task.labels)
        odd = low if low < 0 else high
        owed(
            "task",
            task.name,
            0 <= low <= high < count,
            f"examples() gave label {odd}; expected 0 to {count - 1}, one for each class",
        )


def _demand_values(task: Task, examples: Examples) -> None:
    if task.value_columns and not task.uses_reference:
        found = None if examples.values is None else examples.values.shape
        wanted = (len(examples), task.value_columns)
        owed("task", task.name, found == wanted, f"examples() gave values {found}; expected {wanted}, as value_columns says")


def checked_loss(task: Task, loss: Loss, rows: int) -> Loss:
    """The same loss. Raises PlugInError, one line, where it is not what `Task.loss` promises for so many rows."""
    owed("task", task.name, isinstance(loss, Loss), f"loss() gave {type(loss).__name__}; expected Loss")
    scalar = isinstance(loss.objective, torch.Tensor) and loss.objective.ndim == 0
    owed("task", task.name, scalar, f"loss() gave an objective {_shown(loss.objective)}; expected a scalar tensor, a mean")
    each = isinstance(loss.row_losses, torch.Tensor) and tuple(loss.row_losses.shape) == (rows,)
    owed("task", task.name, each, f"loss() gave row_losses {_shown(loss.row_losses)}; expected ({rows},), one for each row")
    return loss


def _shown(found: object) -> str:
    return f"of shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else f"of {type(found).__name__}"
