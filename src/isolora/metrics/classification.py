"""Scores of classes and of numbers, and which of them each GLUE task is judged by (Wang et al. 1804.07461, table 1)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isolora.errors import ConfigError, unknown

GLUE = {
    "cola": ("matthews",),
    "sst2": ("accuracy",),
    "mrpc": ("accuracy", "f1"),
    "stsb": ("pearson", "spearman"),
    "qqp": ("accuracy", "f1"),
    "mnli": ("accuracy",),
    "qnli": ("accuracy",),
    "rte": ("accuracy",),
    "wnli": ("accuracy",),
}
"""Metrics of each task by its name on the hub; MNLI's apply to its matched and to its mismatched set."""


def classification_scores(names: Sequence[str], true: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """Named metrics of predicted classes or numbers [examples] against the true ones.

    accuracy, f1 (of class 1), f1_macro (mean over the classes that occur in either) and f1_micro are 0..1; matthews (Gorodkin
    2004 for many classes), pearson and spearman (ties share their mean rank) are -1..1, and 0 where a side is constant.
    A prediction that is no class at all may be -1. Raises ConfigError for another name.
    """
    truth, guess = np.asarray(true), np.asarray(predicted)
    for name in names:
        if name not in METRICS:
            raise ConfigError(unknown("metric", name, METRICS))
    return {name: METRICS[name](truth, guess) for name in names}


def _accuracy(true: NDArray[np.generic], predicted: NDArray[np.generic]) -> float:
    return float(np.mean(true == predicted))


def _f1(true: NDArray[np.generic], predicted: NDArray[np.generic], average: str, labels: list[int] | None = None) -> float:
    from sklearn.metrics import f1_score

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # many classes among few examples
        return float(f1_score(true, predicted, labels=labels, average=average, zero_division=0))


def _matthews(true: NDArray[np.generic], predicted: NDArray[np.generic]) -> float:
    from sklearn.metrics import matthews_corrcoef

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a single class, which gives 0; many classes among few examples
        return float(matthews_corrcoef(true, predicted))


def _correlation(kind: str, true: NDArray[np.generic], predicted: NDArray[np.generic]) -> float:
    from scipy import stats

    x, y = true.astype(np.float64), predicted.astype(np.float64)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        return float(getattr(stats, kind)(x, y).statistic)


METRICS: dict[str, Callable[[NDArray[np.generic], NDArray[np.generic]], float]] = {
    "accuracy": _accuracy,
    "f1": lambda true, predicted: _f1(true, predicted, "micro", labels=[1]),
    "f1_macro": lambda true, predicted: _f1(true, predicted, "macro"),
    "f1_micro": lambda true, predicted: _f1(true, predicted, "micro"),
    "matthews": _matthews,
    "pearson": lambda true, predicted: _correlation("pearsonr", true, predicted),
    "spearman": lambda true, predicted: _correlation("spearmanr", true, predicted),
}
