"""ROUGE: n-grams and longest common subsequences that a summary shares with its reference (Lin, ACL 2004 workshop)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge_scores(references: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Mean F-measure (0..1) of ROUGE-1, -2, -L and -Lsum over texts [examples]; see rouge_per_example."""
    return {name: float(values.mean()) for name, values in rouge_per_example(references, predictions).items()}


def rouge_per_example(references: Sequence[str], predictions: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """F-measures (0..1) [examples] of ROUGE-1, -2, -L and -Lsum with Porter stemming, by the package rouge_score.

    Sentences, for Lsum, are lines: a text in one line has Lsum = L. Words are runs of a-z and 0-9, as in Lin's ROUGE-1.5.5, so
    text in another script scores 0 even against itself. An empty text scores 0.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(TYPES, use_stemmer=True)
    scores = [scorer.score(reference, text) for reference, text in zip(references, predictions, strict=True)]
    return {name: np.array([score[name].fmeasure for score in scores], np.float64) for name in TYPES}
