"""Classes and numbers against scikit-learn and scipy, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn

from isolora.errors import ConfigError
from isolora.metrics.classification import GLUE, METRICS, classification_scores

CLASSES = ("accuracy", "f1", "f1_macro", "f1_micro", "matthews")
TRUE, PREDICTED = [1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 1, 0]  # 2 found, 1 missed, 1 false, 3 rightly left


def test_the_metrics_of_the_nine_tasks() -> None:
    assert classification_scores(GLUE["cola"], TRUE, PREDICTED) == {
        "matthews": pytest.approx((2 * 3 - 1 * 1) / math.sqrt(3 * 3 * 4 * 4))
    }
    for task in ("mrpc", "qqp"):
        assert classification_scores(GLUE[task], TRUE, PREDICTED) == {
            "accuracy": pytest.approx(5 / 7),
            "f1": pytest.approx(2 / 3),
        }
    for task in ("sst2", "mnli", "qnli", "rte", "wnli"):
        assert classification_scores(GLUE[task], TRUE, PREDICTED) == {"accuracy": pytest.approx(5 / 7)}
    assert classification_scores(GLUE["stsb"], [1.0, 2, 2, 3], [1.0, 2, 3, 4]) == {
        "pearson": pytest.approx(3 / math.sqrt(10)),
        "spearman": pytest.approx(4.5 / math.sqrt(4.5 * 5)),  # the tied pair shares rank 2.5
    }
    assert len(GLUE) == 9


def test_many_classes_by_hand() -> None:
    """All called the first class: its F1 is 2/3, that of the other two 0."""
    found = classification_scores(("f1_macro", "f1_micro"), ["a", "a", "b", "c"], ["a", "a", "a", "a"])
    assert found == {"f1_macro": pytest.approx(2 / 9), "f1_micro": 0.5}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 3)), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_equals_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    true, predicted = zip(*pairs, strict=True)
    found = classification_scores(CLASSES, true, predicted)
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(true, predicted))
    ones = [[int(value == 1) for value in side] for side in (true, predicted)]
    assert found["f1"] == pytest.approx(sklearn.f1_score(*ones, zero_division=0))
    for average in ("macro", "micro"):
        assert found[f"f1_{average}"] == pytest.approx(sklearn.f1_score(true, predicted, average=average, zero_division=0))
    if len({*true, *predicted}) > 1:
        assert found["matthews"] == pytest.approx(sklearn.matthews_corrcoef(true, predicted))
    backwards = classification_scores(CLASSES, true[::-1], predicted[::-1])
    assert backwards == pytest.approx(found)


@given(st.lists(st.tuples(*[st.integers(0, 5)] * 2), min_size=2, max_size=30))
@settings(max_examples=60, deadline=None)
def test_correlations_equal_scipy(pairs: list[tuple[int, int]]) -> None:
    true, predicted = np.array(pairs, float).T
    found = classification_scores(("pearson", "spearman"), true, predicted)
    if np.ptp(true) == 0 or np.ptp(predicted) == 0:
        assert found == {"pearson": 0, "spearman": 0}
    else:
        assert found["pearson"] == pytest.approx(stats.pearsonr(true, predicted).statistic)
        assert found["spearman"] == pytest.approx(stats.spearmanr(true, predicted).statistic)


@pytest.mark.parametrize("predicted", [[2.5, 2.5, 2.5], [1, 1, 1]])
def test_constant_predictions_correlate_with_nothing(predicted: list[float]) -> None:
    assert classification_scores(("pearson", "spearman"), [0.0, 1.0, 5.0], predicted) == {"pearson": 0, "spearman": 0}
    assert classification_scores(("matthews",), [0, 1, 1], [1, 1, 1]) == {"matthews": 0}


def test_a_single_class() -> None:
    assert classification_scores(CLASSES, [1, 1], [1, 1]) == {"accuracy": 1, "f1": 1, "f1_macro": 1, "f1_micro": 1, "matthews": 0}
    assert classification_scores(("accuracy", "f1"), [0, 0], [0, 0]) == {"accuracy": 1, "f1": 0}


def test_as_many_classes_as_examples() -> None:
    assert classification_scores(("f1_macro", "matthews"), range(30), range(30)) == {"f1_macro": 1, "matthews": 1}


def test_numbers_that_hardly_differ_and_no_numbers() -> None:
    assert -1 <= classification_scores(("pearson",), [0.0, 1, 2], [1, 1 + 1e-15, 1])["pearson"] <= 1
    assert math.isnan(classification_scores(("pearson",), [0.0, 1, 2], [0, 1, math.nan])["pearson"])


def test_unknown_names_are_answered_with_the_known() -> None:
    with pytest.raises(ConfigError, match=r"unknown metric 'mathews'; did you mean 'matthews'\?"):
        classification_scores(("mathews",), [0], [0])
    assert {name for names in GLUE.values() for name in names} <= METRICS.keys()
