"""Batches: every example once a pass, within the budget of tokens, padded little, and found again by position."""

from __future__ import annotations

import numpy as np
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from isolora.runs.batches import Stream, collate, cut_by_tokens, epoch_batches
from isolora.tasks.base import IGNORED, Examples

LENGTHS = np.random.default_rng(0).integers(2, 200, 3000)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 80), min_size=1, max_size=120), batch_tokens=st.integers(1, 300), seed=st.integers(0, 99))
def test_a_pass_holds_every_example_once_and_keeps_the_budget(lengths: list[int], batch_tokens: int, seed: int) -> None:
    array = np.array(lengths)
    batches = epoch_batches(array, batch_tokens, seed, epoch=0)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) * array[batch].max() <= batch_tokens or len(batch) == 1


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(1, 80), st.integers(1, 80)), min_size=1, max_size=120),
    batch_tokens=st.integers(2, 600),
)
def test_a_batch_of_pairs_keeps_the_budget_with_both_sides_padded(pairs: list[tuple[int, int]], batch_tokens: int) -> None:
    """A long prompt beside a short answer, and the other way round: each side is padded to its own longest."""
    array = np.array(pairs)
    batches = epoch_batches(array, batch_tokens, seed=0, epoch=0)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(pairs)))
    for batch in batches:
        assert len(batch) * array[batch].max(0).sum() <= batch_tokens or len(batch) == 1


def test_cuts_by_hand() -> None:
    lengths = np.array([1, 2, 3, 3, 5, 9])
    cut = [piece.tolist() for piece in cut_by_tokens(np.arange(6), lengths, 9)]
    assert cut == [[0, 1, 2], [3], [4], [5]]


def test_little_padding() -> None:
    batches = epoch_batches(LENGTHS, 4096, seed=0, epoch=0)
    padded = sum(len(batch) * LENGTHS[batch].max() for batch in batches)
    assert padded / LENGTHS.sum() < 1.06


def test_passes_and_seeds_differ_and_repeat() -> None:
    one, again, other_pass, other_seed = (
        np.concatenate(epoch_batches(LENGTHS, 512, seed, epoch)).tolist() for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert one == again
    assert one != other_pass != other_seed != one


def test_lengths_are_mixed_over_a_pass() -> None:
    """Sorted within a pool, not over the pass: long and short batches alternate."""
    longest = [LENGTHS[batch].max() for batch in epoch_batches(LENGTHS, 1024, seed=0, epoch=0)]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.2


def test_a_stream_goes_on_from_a_recorded_position() -> None:
    stream = Stream(LENGTHS[:100], 512, seed=4)
    a_pass = stream.batches
    positions, taken = [], []
    for _ in range(3 * a_pass):
        positions.append((stream.epoch, stream.index))
        taken.append(stream.next().tolist())
    for start in (0, 1, a_pass, 2 * a_pass):
        resumed = Stream(LENGTHS[:100], 512, seed=4)
        resumed.seek(*positions[start])
        assert [resumed.next().tolist() for _ in taken[start:]] == taken[start:]


def test_collate_by_hand() -> None:
    ids = np.array([7, 8, 9, 5, 6], dtype=np.int32)
    labels = np.array([8, 9, IGNORED, 6, IGNORED], dtype=np.int32)
    batch = collate(Examples(ids, labels, np.array([0, 3, 5])), np.array([1, 0]), np.array([0.5, 0.25]), pad_id=1)
    assert batch.input_ids.tolist() == [[5, 6, 1], [7, 8, 9]]
    assert batch.positions.tolist() == [0, 3, 4]
    assert batch.targets.tolist() == [6, 8, 9]
    assert batch.target_rows.tolist() == [0, 1, 1]
    assert batch.row_weights.tolist() == [0.5, 0.25]


def test_examples_know_their_lengths_and_labels() -> None:
    examples = tiny.examples([4, 6, 3])
    assert examples.lengths.tolist() == [4, 6, 3]
    assert examples.label_counts.tolist() == [3, 5, 2]
    assert examples.labels[:3].tolist() == examples.ids[1:4].tolist()
    subset = examples.subset(np.array([2, 0]))
    assert subset.ids.tolist() == [*examples.ids[10:], *examples.ids[:4]]
    assert (subset.lengths.tolist(), subset.label_counts.tolist()) == ([3, 4], [2, 3])
    assert len(examples.subset(np.array([], dtype=np.int64))) == 0


def test_members_with_other_seeds_hardly_pad_one_another() -> None:
    lengths = np.random.default_rng(0).integers(10, 257, 3000)
    streams = [Stream(lengths, 512, seed) for seed in range(4)]
    alone = together = 0
    for _ in range(400):
        taken = [stream.next() for stream in streams]
        alone += sum(len(rows) * lengths[rows].max() for rows in taken)
        together += sum(map(len, taken)) * max(lengths[rows].max() for rows in taken)
    assert together < 1.1 * alone  # 1.6 when each seed shuffled its own pools
