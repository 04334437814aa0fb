"""Exact match and F1 of answers to questions by SQuAD's rules: v1.1 (Rajpurkar et al. 1606.05250) and v2 (1806.03822)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")


def normalise(text: str) -> str:
    """Lower case without ASCII punctuation, English articles and superfluous white space; other scripts stay as they are."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, prediction: str) -> float:
    """1 where both texts are the same once normalised, else 0."""
    return float(normalise(answer) == normalise(prediction))


def answer_f1(answer: str, prediction: str) -> float:
    """F1 (0..1) of the words that the normalised texts share; the empty answer, v2's no-answer, is matched by no words alone."""
    wanted, given = normalise(answer).split(), normalise(prediction).split()
    if not answer:
        return float(not given)
    shared = (Counter(wanted) & Counter(given)).total()
    return 2 * shared / max(len(wanted) + len(given), 1)


def per_question(answers: Sequence[Sequence[str]], predictions: Sequence[str]) -> tuple[Array, Array]:
    """Exact match and F1 (0..1) [questions], each against the best of a question's true answers; [""] means no answer."""
    pairs = list(zip(answers, predictions, strict=True))
    exact = [max(exact_match(answer, prediction) for answer in question) for question, prediction in pairs]
    shared = [max(answer_f1(answer, prediction) for answer in question) for question, prediction in pairs]
    return np.array(exact, np.float64), np.array(shared, np.float64)


@dataclass(frozen=True)
class V2Questions:
    """What v2's scores are made of [questions]: exact and f1 of the answers as given, whether there is none, scores of that."""

    exact: Array
    f1: Array
    unanswerable: NDArray[np.bool_]
    no_answer_scores: Array

    def scores(self, rows: NDArray[np.int64]) -> dict[str, float]:
        """v2's means (0..1) over some questions, by their numbers, and the best thresholds.

        exact and f1 over all, HasAns_ and NoAns_ over those with and without a true answer (left out where there are none);
        best_exact, best_exact_threshold, best_f1, best_f1_threshold: see best_threshold.
        """
        unanswerable, doubts = self.unanswerable[rows], self.no_answer_scores[rows]
        result: dict[str, float] = {}
        for name, kept in (("exact", self.exact[rows]), ("f1", self.f1[rows])):
            values = np.where(doubts > 0, unanswerable, kept)
            splits = {"": np.full(len(values), True), "HasAns_": ~unanswerable, "NoAns_": unanswerable}
            result |= {prefix + name: float(values[some].mean()) for prefix, some in splits.items() if some.any()}
            result[f"best_{name}"], result[f"best_{name}_threshold"] = best_threshold(kept, unanswerable, doubts)
        return result


def v2_questions(answers: Sequence[Sequence[str]], predictions: Sequence[str], no_answer_scores: Array) -> V2Questions:
    """Every question judged by itself, by v2's rules.

    `answers` [questions][none or more]: none means that the text holds no answer; `predictions` [questions]: what the model
    would answer, "" for nothing; `no_answer_scores` [questions]: the larger, the surer that there is no answer; above 0 the
    answer counts as "".
    """
    wanted = [[text for text in question if normalise(text)] or [""] for question in answers]
    unanswerable = np.array([not question for question in answers])
    return V2Questions(*per_question(wanted, predictions), unanswerable, no_answer_scores)


def best_threshold(kept: Array, unanswerable: NDArray[np.bool_], no_answer_scores: Array) -> tuple[float, float]:
    """The highest mean score (0..1) that any threshold reaches, and the smallest such threshold.

    `kept` [questions]: scores of the answers as given, of which those above the threshold in `no_answer_scores` become "".
    Questions of one score stand or fall together, and an answer of articles alone counts as "", as in the scores; v2's own script
    cuts between the former, where no threshold can, and lets the latter cost a point.
    A threshold chosen on the data that it is judged by flatters: choose on validation, judge on test.
    """
    order = np.argsort(no_answer_scores, kind="stable")
    ranked = no_answer_scores[order]
    totals = unanswerable.sum() + np.cumsum(np.concatenate([[0.0], (kept - unanswerable)[order]]))
    silent = min(0.0, np.nextafter(ranked[0], -np.inf))  # below every score; v2's script says 0 for probabilities
    attainable = np.concatenate([[True], ranked[1:] > ranked[:-1], [True]])
    thresholds = np.concatenate([[silent], ranked])[attainable]
    best = int(np.argmax(totals[attainable]))
    return float(totals[attainable][best] / len(kept)), float(thresholds[best])
