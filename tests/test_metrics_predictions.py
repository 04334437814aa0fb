"""Predictions drawn again: accuracy against the binomial distribution, means with gaps, scores that a draw may lack."""

from __future__ import annotations

import math

import numpy as np
import pytest

from isolora.metrics.classification import classification_scores
from isolora.metrics.predictions import Predictions


def test_accuracys_interval_is_the_binomial_one() -> None:
    """320 of 400 right: the normal approximation of the binomial distribution gives 0.8 ± 0.0392."""
    true, predicted = np.zeros(400, int), np.repeat([0, 1], [320, 80])
    answered = Predictions(400, lambda rows: classification_scores(["accuracy"], true[rows], predicted[rows]))
    half_width = 1.96 * math.sqrt(0.8 * 0.2 / 400)
    assert answered.measures() == {"accuracy": 0.8}
    assert answered.intervals(2000)["accuracy"] == pytest.approx((0.8 - half_width, 0.8 + half_width), abs=0.005)


def test_a_mean_passes_over_documents_that_have_no_value() -> None:
    answered = Predictions.of_means({"all": [1, 2, 3, 6], "some": [1, math.nan, 3, math.nan], "none": [math.nan] * 4})
    assert answered.measures() == {"all": 3, "some": 2}
    assert answered.measure(np.array([1, 3, 3])) == {"all": 14 / 3}
    assert answered.intervals(50).keys() == {"all", "some"}


def test_what_is_judged_together_is_drawn_together() -> None:
    """Both sides of a document move together, so their difference never varies."""
    values = np.random.default_rng(0).normal(size=30)
    low, high = Predictions(30, lambda rows: {"gap": float((values[rows] + 1 - values[rows]).mean())}).intervals()["gap"]
    assert (low, high) == pytest.approx((1, 1))


def test_no_measures_have_no_intervals() -> None:
    assert Predictions(0, lambda rows: {}).intervals() == {}
