"""Entities against seqeval and scikit-learn, and by hand."""

from __future__ import annotations

from itertools import chain
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval import metrics as seqeval
from seqeval.scheme import IOB2
from sklearn.metrics import f1_score

from isolora.errors import DataError
from isolora.metrics.entities import entity_counts, entity_scores, f1_of_counts, repair

TAGS = st.sampled_from(["O", "B-PER", "I-PER", "B-art-音楽", "I-art-音楽"])
PAIRS = st.lists(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=8), min_size=1, max_size=6)
Pairs = list[list[tuple[str, str]]]
"""True and predicted tag of each token of each sentence."""


def sides(pairs: Pairs) -> tuple[list[list[str]], list[list[str]]]:
    return [[true for true, _ in row] for row in pairs], [[predicted for _, predicted in row] for row in pairs]


def mended(tags: list[list[str]]) -> list[list[str]]:
    return [repair(row) for row in tags]


@pytest.mark.parametrize(
    ("tags", "repaired"),
    [
        ("O I-A I-A", "O B-A I-A"),
        ("B-A I-B I-B", "B-A B-B I-B"),
        ("I-A O I-A", "B-A O B-A"),
        ("B-A B-A I-A", "B-A B-A I-A"),
        ("I-a-b I-a-c", "B-a-b B-a-c"),
        ("", ""),
    ],
)
def test_repair(tags: str, repaired: str) -> None:
    assert repair(tags.split()) == repaired.split()


@pytest.mark.parametrize("tag", ["person", "E-PER", "B-", "o", "", "O-PER"])
def test_repair_rejects_what_is_not_bio(tag: str) -> None:
    with pytest.raises(DataError, match=r"is not BIO \(valid: O, B-TYPE, I-TYPE\)"):
        repair(["O", tag])


def test_by_hand() -> None:
    true = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-ORG"]]
    predicted = [["I-PER", "I-PER", "O", "B-ORG"], ["O", "B-ORG"]]
    expected = {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "accuracy": 5 / 6, "token_f1": 3 / 4}
    by_type = {"f1.PER": 1.0, "f1.LOC": 0.0, "f1.ORG": 2 / 3}
    assert entity_scores(true, predicted) == pytest.approx(expected | by_type)


def test_an_entity_cut_short_is_missed_while_its_tokens_count() -> None:
    scores = entity_scores([["B-PER", "I-PER", "I-PER"]], [["B-PER", "I-PER", "O"]])
    assert (scores["f1"], scores["token_f1"]) == (0, pytest.approx(0.8))


@pytest.mark.parametrize(
    ("true", "predicted", "accuracy"),
    [([["B-A", "O"]], [["O", "O"]], 0.5), ([["O"]], [["O"]], 1), ([["O"]], [["B-A"]], 0), ([[]], [[]], 0), ([], [], 0)],
)
def test_nothing_found_is_zero(true: list[list[str]], predicted: list[list[str]], accuracy: float) -> None:
    scores = entity_scores(true, predicted)
    assert scores.pop("accuracy") == accuracy
    assert set(scores.values()) == {0.0}


@given(PAIRS)
@settings(max_examples=60, deadline=None)
def test_equals_seqeval_which_reads_broken_tags_the_same_way(pairs: Pairs) -> None:
    true, predicted = sides(pairs)
    scores = entity_scores(true, predicted)
    assert scores["precision"] == pytest.approx(seqeval.precision_score(true, predicted, zero_division=0))
    assert scores["recall"] == pytest.approx(seqeval.recall_score(true, predicted, zero_division=0))
    assert scores["f1"] == pytest.approx(seqeval.f1_score(true, predicted, zero_division=0))
    mended_true, mended_predicted = mended(true), mended(predicted)
    assert scores["accuracy"] == seqeval.accuracy_score(mended_true, mended_predicted)
    if any(tag != "O" for tag in chain(*true, *predicted)):  # seqeval's report cannot be without a type
        modes = {"mode": "strict", "scheme": IOB2, "zero_division": 0, "output_dict": True}
        report = seqeval.classification_report(mended_true, mended_predicted, **modes)
        by_type = {f"f1.{name}": row["f1-score"] for name, row in report.items() if not name.endswith(" avg")}
        assert {name: value for name, value in scores.items() if name.startswith("f1.")} == pytest.approx(by_type)


@given(PAIRS)
@settings(max_examples=60, deadline=None)
def test_token_f1_equals_scikit_learns_micro_f1_without_o(pairs: Pairs) -> None:
    true, predicted = (list(chain(*mended(side))) for side in sides(pairs))
    labels = sorted({*true, *predicted} - {"O"})
    expected = f1_score(true, predicted, labels=labels, average="micro", zero_division=0) if labels else 0
    assert entity_scores(*sides(pairs))["token_f1"] == pytest.approx(expected)


@given(PAIRS, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_sentences_is_nothing_and_their_counts_add_up(pairs: Pairs, random: Random) -> None:
    scores = entity_scores(*sides(pairs))
    assert entity_scores(*sides(random.sample(pairs, len(pairs)))) == scores
    counts = entity_counts(*sides(pairs))
    assert f1_of_counts(counts.entities.sum((0, 1))) == scores["f1"]
    assert f1_of_counts(counts.tokens.sum(0)) == scores["token_f1"]


@given(PAIRS, st.lists(st.integers(0, 5), min_size=1, max_size=9))
@settings(max_examples=30, deadline=None)
def test_a_draw_scores_as_its_sentences_do(pairs: Pairs, drawn: list[int]) -> None:
    rows = [row % len(pairs) for row in drawn]
    assert entity_counts(*sides(pairs)).scores(np.array(rows)) == entity_scores(*sides([pairs[row] for row in rows]))
