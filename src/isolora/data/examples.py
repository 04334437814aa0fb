"""Documents as a task's examples, and the documents that give none: each is named with its file and row, and why."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from isolora.data.documents import Documents, without
from isolora.errors import DataError
from isolora.tasks.base import Examples, Task


def make_examples(
    task: Task, documents: Documents, make: Callable[[Documents], Examples], max_length: int, skip: bool
) -> tuple[Documents, Examples]:
    """(the documents that can be learnt from, their examples), every example with at least one label.

    make: the task's examples of documents, cut to `max_length` tokens. A document that gives no label, or that cannot be made an
    example of, stops the run with one line, a DataError that names file and row; with `skip` it is left out and remembered in the
    documents' `left_out`. Raises DataError too where no document is left.
    """
    try:
        examples = make(documents)
    except DataError:
        if not skip:
            raise
        documents = without(documents, _refused(documents, make), skip)
        examples = make(documents)
    if unlabelled := _unlabelled(task, documents, examples, max_length):
        documents = without(documents, unlabelled, skip)
        examples = make(documents)
    return documents, examples.subset(np.flatnonzero(examples.label_counts))


def _refused(documents: Documents, make: Callable[[Documents], Examples]) -> dict[int, str]:
    """The places of documents that no example can be made of, and why. Each is tried alone: this is slow, and rare."""
    found = {}
    for place in range(len(documents)):
        alone = documents.at([place])
        try:
            make(alone)
        except DataError as failure:
            found[place] = str(failure).removeprefix(f"data: {alone.origin(0)}: ")
    return found


def _unlabelled(task: Task, documents: Documents, examples: Examples, max_length: int) -> dict[int, str]:
    """The places of documents whose examples have no label at all, and why."""
    places = np.flatnonzero(task.labels_by_document(examples, len(documents)) == 0)
    return {int(place): task.nothing_to_learn(max_length) for place in places}
