"""SQuAD's rules on cases worked by hand from the published evaluation of v1.1 and v2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from isolora.metrics.squad import answer_f1, best_threshold, exact_match, normalise, per_question, v2_questions

WORDS = st.lists(st.sampled_from(["the", "A", "cat", "Cat!", "cats", "東京", "naïve", "😀", "-"]), max_size=5).map(" ".join)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Denver\tBroncos!", "denver broncos"),
        ("an apple a day", "apple day"),
        ("Anna's theatre", "annas theatre"),
        ("co-operate", "cooperate"),  # punctuation leaves no space
        ("the.cat", "thecat"),  # punctuation goes first, so the article is none by then
        ("$1,000", "1000"),
        ("“東京”、京都", "“東京”、京都"),  # only ASCII punctuation
        ("a\u0301", "\u0301"),  # a combining mark does not make the article a word
        ("caf\u00e9 😀", "caf\u00e9 😀"),
        ("The a an", ""),
    ],
)
def test_normalise(text: str, normal: str) -> None:
    assert normalise(text) == normal


@pytest.mark.parametrize(
    ("answer", "prediction", "exact", "shared"),
    [
        ("Denver Broncos", "the Denver Broncos.", 1, 1),
        ("Denver Broncos", "Broncos", 0, 2 / 3),
        ("gold gold gold", "gold gold red", 0, 2 / 3),  # a word counts as often as both have it
        ("Denver Broncos", "Panthers", 0, 0),
        ("Denver Broncos", "", 0, 0),
        ("caf\u00e9", "cafe\u0301", 0, 0),  # composed and decomposed differ
        ("東京 タワー", "東京", 0, 2 / 3),
        ("東京タワー", "東京", 0, 0),  # words are what white space parts
        ("", "", 1, 1),
        ("", "the", 1, 1),
        ("", "cat", 0, 0),
        ("the", "a", 1, 0),  # v1.1: two texts of articles match and share no word
    ],
)
def test_one_answer(answer: str, prediction: str, exact: float, shared: float) -> None:
    assert (exact_match(answer, prediction), answer_f1(answer, prediction)) == (exact, pytest.approx(shared))


def test_the_best_of_several_answers_counts_for_each_metric_alone() -> None:
    answers = [["Santa Clara, California", "Levi's Stadium"], ["1998"], [""]]
    exact, shared = per_question(answers, ["Levis stadium Santa Clara", "1998", ""])
    assert (exact.tolist(), shared.tolist()) == ([0, 1, 1], [pytest.approx(2 / 3), 1, 1])


def v2_scores(answers: Sequence[Sequence[str]], predictions: Sequence[str], doubts: ArrayLike) -> dict[str, float]:
    return v2_questions(answers, predictions, np.asarray(doubts, float)).scores(np.arange(len(predictions)))


def test_v2_splits_and_threshold() -> None:
    """Two with an answer (right; half right), two without (kept silent; an answer given)."""
    answers = [["Paris"], ["New York", "the"], [], []]
    predictions = ["Paris", "York", "", "London"]
    doubts = np.array([-0.9, -0.6, -0.8, -0.3])
    found = v2_scores(answers, predictions, doubts)
    exact = {"exact": 2 / 4, "HasAns_exact": 1 / 2, "NoAns_exact": 1 / 2, "best_exact": 3 / 4, "best_exact_threshold": -0.9}
    shared = {"f1": (1 + 2 / 3 + 1) / 4, "HasAns_f1": (1 + 2 / 3) / 2, "NoAns_f1": 1 / 2}
    best_shared = {"best_f1": (1 + 2 / 3 + 2) / 4, "best_f1_threshold": -0.6}
    assert found == pytest.approx(exact | shared | best_shared)
    assert v2_scores(answers, predictions, doubts + 0.6)["f1"] == found["best_f1"]


def test_v2_has_no_split_without_questions() -> None:
    assert "NoAns_f1" not in v2_scores([["Paris"]], ["Paris"], [0])
    silent = v2_scores([[], []], ["Paris", ""], [1, -1])
    assert (silent["f1"], silent["NoAns_exact"], "HasAns_f1" in silent) == (1, 1, False)


def test_v2_an_answer_of_articles_alone_is_no_answer_to_give_but_remains_one_to_find() -> None:
    found = v2_scores([["the"]], [""], [0])
    assert (found["HasAns_exact"], found["HasAns_f1"]) == (1, 1)


@pytest.mark.parametrize(
    ("kept", "unanswerable", "doubts", "score", "threshold"),
    [
        ([1, 0], [0, 1], [0.2, 0.2], 0.5, 0.0),  # tied: both or neither, no cut between them
        ([1, 1, 0], [0, 0, 1], [0.2, 0.2, 0.3], 1.0, 0.2),
        ([0, 0], [1, 1], [0.2, 0.3], 1.0, 0.0),  # all silent
        ([1, 1], [0, 0], [-4.0, 2.5], 1.0, 2.5),  # none silent; scores need not be probabilities
        ([0], [1], [-3.0], 1.0, np.nextafter(-3.0, -4)),
    ],
)
def test_best_threshold(kept: list[float], unanswerable: list[int], doubts: list[float], score: float, threshold: float) -> None:
    found = best_threshold(np.array(kept, float), np.array(unanswerable, bool), np.array(doubts))
    assert found == (score, threshold)


@given(st.lists(st.tuples(WORDS, st.lists(WORDS, max_size=3), st.integers(-2, 2)), min_size=1, max_size=8))
def test_no_threshold_beats_the_best_and_exact_never_exceeds_f1(rows: list[tuple[str, list[str], int]]) -> None:
    predictions, answers, doubts = zip(*rows, strict=True)
    scores = [v2_scores(answers, predictions, np.array(doubts) - threshold) for threshold in (0, -3, -2, -1, 1, 2)]
    for name in ("exact", "f1"):
        best = scores[0][f"best_{name}"]
        assert max(found[name] for found in scores) == pytest.approx(best)
        chosen = v2_scores(answers, predictions, np.array(doubts) - scores[0][f"best_{name}_threshold"])
        assert chosen[name] == pytest.approx(best)
    assert all(found["exact"] <= found["f1"] + 1e-12 for found in scores)


@given(WORDS, WORDS)
def test_f1_is_symmetric_and_exact_is_full_f1(one: str, other: str) -> None:
    if normalise(one) and normalise(other):
        assert answer_f1(one, other) == answer_f1(other, one)
        assert exact_match(one, other) <= answer_f1(one, other)
        assert answer_f1(one, f"the {one}?") == 1
