"""Batches by token budget out of length-sorted pools: little padding, random order, and a place that a resume can return to."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from isolora.tasks.base import IGNORED, Batch, Examples

Indices = NDArray[np.int64]
"""Which examples, by number."""

GOLDEN_RATIO = (1 + 5**0.5) / 2

POOL_BATCHES = 32
"""Batches sorted together: larger pools pad less, smaller ones mix lengths better."""


def epoch_batches(lengths: NDArray[np.int64], batch_tokens: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """One pass over all examples as index arrays, each of at most `batch_tokens` padded tokens (or one longer example).

    lengths: tokens of each example, [examples], or of each of its sequences, [examples, sequences], which are padded apart.

    Which examples meet is the seed's; the order in which short and long batches come is the same for every seed. So the
    members of a stack draw batches of like length at the same step and hardly pad one another.
    """
    rng = np.random.default_rng([seed, epoch])
    order, sizes = rng.permutation(len(lengths)), by_sequence(lengths).sum(1)
    pool_examples = max(1, int(POOL_BATCHES * batch_tokens / sizes.mean()))
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), pool_examples):
        pool = order[start : start + pool_examples]
        cut = list(cut_by_tokens(pool[np.argsort(sizes[pool], kind="stable")], lengths, batch_tokens))
        batches += [cut[i] for i in visiting_order(len(batches), len(cut))]
    return batches


def visiting_order(first: int, count: int) -> NDArray[np.int64]:
    """In which order batches `first` to `first + count` of a pass take the ranks of their pool, shortest 0: ranks of the golden
    ratio's multiples, which mix lengths evenly and hardly depend on where a pool happens to begin or end."""
    quantiles = (np.arange(first, first + count) * GOLDEN_RATIO) % 1
    ranks: NDArray[np.int64] = np.argsort(np.argsort(quantiles))
    return ranks


def cut_by_tokens(
    sorted_indices: NDArray[np.int64], lengths: NDArray[np.int64], batch_tokens: int
) -> Iterator[NDArray[np.int64]]:
    """Consecutive slices whose padded size stays within the budget: rows x longest, summed over the sequences of an example.

    lengths: as in `epoch_batches`; sorted_indices: by size, so that neighbours pad each other little.
    """
    start, longest = 0, [0] * by_sequence(lengths).shape[1]
    for stop, own in enumerate(by_sequence(lengths)[sorted_indices].tolist()):
        longest = list(map(max, longest, own))
        if stop > start and (stop + 1 - start) * sum(longest) > batch_tokens:
            yield sorted_indices[start:stop]
            start, longest = stop, own
    if start < len(sorted_indices):
        yield sorted_indices[start:]


def short_first(examples: Examples, batch_tokens: int, rows: NDArray[np.int64] | None = None) -> Iterator[NDArray[np.int64]]:
    """All examples, or these, in batches of like size."""
    rows = np.arange(len(examples)) if rows is None else rows
    return cut_by_tokens(rows[np.argsort(examples.sizes[rows], kind="stable")], examples.sequence_lengths, batch_tokens)


def by_sequence(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """[examples, sequences], also of examples that are a single sequence."""
    return lengths[:, None] if lengths.ndim == 1 else lengths


class Stream:
    """Endless batches of one member: pass after pass over its examples. `position` counts batches taken."""

    def __init__(self, lengths: NDArray[np.int64], batch_tokens: int, seed: int) -> None:
        self.lengths, self.batch_tokens, self.seed = lengths, batch_tokens, seed
        self.epoch, self.index = 0, 0
        self._plan = epoch_batches(lengths, batch_tokens, seed, 0)

    @property
    def batches(self) -> int:
        """Batches in the current pass."""
        return len(self._plan)

    @property
    def last(self) -> Indices:
        """The batch taken last."""
        return self._plan[self.index - 1]

    def next(self) -> NDArray[np.int64]:
        if self.index == len(self._plan):
            self.seek(self.epoch + 1, 0)
        taken = self._plan[self.index]
        self.index += 1
        return taken

    def seek(self, epoch: int, index: int) -> None:
        """Return to a recorded position."""
        if epoch != self.epoch:
            self._plan = epoch_batches(self.lengths, self.batch_tokens, self.seed, epoch)
        self.epoch, self.index = epoch, index


def collate(examples: Examples, indices: NDArray[np.int64], row_weights: NDArray[np.float32], pad_id: int) -> Batch:
    """Examples as one right-padded batch; row_weights [rows] as in Batch."""
    lengths = examples.lengths[indices]
    within = np.arange(lengths.max()) < lengths[:, None]
    source = np.concatenate([np.arange(examples.starts[i], examples.starts[i + 1]) for i in indices])
    ids = np.full(within.shape, pad_id, dtype=np.int64)
    labels = np.full(within.shape, IGNORED, dtype=np.int64 if examples.labels.dtype.kind == "i" else np.float32)
    ids[within], labels[within] = examples.ids[source], examples.labels[source]
    positions = np.flatnonzero(labels != IGNORED)
    return Batch(
        input_ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        targets=torch.from_numpy(labels.reshape(-1)[positions]),
        target_rows=torch.from_numpy(positions // within.shape[1]),
        row_weights=torch.from_numpy(row_weights.astype(np.float32)),
        lengths=torch.from_numpy(lengths),
        second=None if examples.second is None else collate(examples.second, indices, row_weights, pad_id),
        values=None if examples.values is None else torch.from_numpy(examples.values[indices]),
    )
