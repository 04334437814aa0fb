"""Documents as a task's examples, and the documents that give none: each is named with its file and row, and why.

Examples are cached under the hash of all that decides them: documents, tokenizer, task and length.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isolora.caches import cache_folder, one_at_a_time, sources_digest
from isolora.data.documents import Documents, without
from isolora.errors import DataError
from isolora.json_types import JsonObject
from isolora.tasks.base import Examples, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


FORMAT = 4  # of the file
SECOND = "second."
ARRAYS = ("ids", "labels", "starts", "values", "documents")


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


def cached(make: Callable[[], Examples], tokenizer: PreTrainedTokenizerBase, decided_by: Sequence[object]) -> Examples:
    """What `make` gives, from the cache where it was made before. decided_by: JSON values that decide it beside the tokenizer.

    Workers of a study begin together and want the same examples: one of them makes these, with all cores.
    """
    key = _key(tokenizer, decided_by)
    path = cache_folder() / "tokens" / f"{key}.npz"
    if (known := _known(path)) is not None:
        return known
    with one_at_a_time(key):
        if (known := _known(path)) is not None:
            return known
        examples = make()
        with contextlib.suppress(OSError):
            _write(examples, path)
    return examples


def _known(path: Path) -> Examples | None:
    """A cache is an acceleration: one that is broken, or cannot be written, costs time and nothing else."""
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return _read(path)
    return None


def _key(tokenizer: PreTrainedTokenizerBase, decided_by: Sequence[object]) -> str:
    parts = [FORMAT, code_of_tasks(), _tokenizer_state(tokenizer), tokenizer.eos_token_id, *decided_by]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def code_of_tasks() -> str:
    """SHA-256 of the tasks' sources: another version of isolora may give other labels for the same documents."""
    return sources_digest(("tasks",))


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> str:
    """Everything that decides the ids: the whole fast tokenizer and its chat template, or name, vocabulary and settings of a
    slow one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return str(backend.to_str()) + str(getattr(tokenizer, "chat_template", None))
    return json.dumps([type(tokenizer).__name__, tokenizer.get_vocab(), repr(tokenizer.init_kwargs)], sort_keys=True)


def _arrays(examples: Examples) -> Iterator[tuple[str, Any]]:
    yield from ((name, array) for name in ARRAYS if (array := getattr(examples, name)) is not None)
    if examples.second is not None:
        yield from ((SECOND + name, array) for name, array in _arrays(examples.second))


def _read(path: Path) -> Examples:
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        return _examples(dict(file))


def _examples(arrays: JsonObject) -> Examples:
    own: JsonObject = {name: arrays.get(name) for name in ARRAYS}
    inner = {name.removeprefix(SECOND): array for name, array in arrays.items() if name.startswith(SECOND)}
    if arrays["starts"][-1] != len(arrays["ids"]):
        raise ValueError("offsets and ids disagree")
    return Examples(**own, second=_examples(inner) if inner else None)


def _write(examples: Examples, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and renamed, so that a process beside this one never reads half a file.
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        np.savez(file, **dict(_arrays(examples)))
    Path(file.name).replace(path)
