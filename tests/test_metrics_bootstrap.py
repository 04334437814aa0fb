"""The bootstrap against the normal distribution, against its promise, and in its corners."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import ArrayLike

from isolora.metrics.entities import entity_counts
from isolora.metrics.predictions import interval_of


def interval(values: ArrayLike, repeats: int, seed: int = 0) -> tuple[float, float]:
    """Of the mean."""
    return interval_of(lambda rows: float(np.asarray(values)[rows].mean()), len(np.asarray(values)), repeats, seed)


def test_a_share_of_many_examples_comes_out_as_the_normal_distribution_says() -> None:
    low, high = interval([0, 1] * 200, repeats=4000)
    half_width = 1.96 * math.sqrt(0.25 / 400)
    assert (low, high) == pytest.approx((0.5 - half_width, 0.5 + half_width), abs=0.004)


def test_it_holds_the_truth_in_about_95_of_100_test_sets() -> None:
    random = np.random.default_rng(1)
    intervals = [interval(random.exponential(size=200), repeats=200, seed=seed) for seed in range(300)]
    assert 0.91 <= np.mean([low <= 1 <= high for low, high in intervals]) <= 0.98


def test_the_seed_decides() -> None:
    values = np.random.default_rng(2).normal(size=50)
    assert interval(values, 100, seed=3) == interval(values, 100, seed=3)
    assert interval(values, 100, seed=3) != interval(values, 100, seed=4)


def test_entity_f1_resamples_sentences() -> None:
    true = [["B-A", "O"], ["O", "B-B"]] * 50
    predicted = [["B-A", "O"], ["O", "O"]] * 50
    counts = entity_counts(true, predicted)
    low, high = interval_of(lambda rows: counts.scores(rows)["f1"], 100, 500)
    assert low < 2 / 3 < high
    assert 0.1 < high - low < 0.25


@pytest.mark.parametrize("values", [[0.25], [1.0] * 30])
def test_examples_that_all_score_the_same_leave_no_width(values: list[float]) -> None:
    assert interval(values, 20) == (values[0], values[0])
