"""ROUGE by hand, and against rouge_score."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from isolora.metrics.rouge import TYPES, rouge_per_example, rouge_scores, rouge_words


def of(reference: str, prediction: str) -> list[float]:
    scores = rouge_scores([reference], [prediction])
    return [scores[name] for name in TYPES]


def test_by_hand() -> None:
    """Six of seven words, four of five and six bigrams, a common subsequence of six."""
    values = of("The cat was under the bed.", "the cat was found under the bed")
    assert values == pytest.approx([12 / 13, 8 / 11, 12 / 13, 12 / 13])


def test_stems_match() -> None:
    assert of("running dogs", "dog runs") == [1, 0, 0.5, 0.5]


def test_lsum_takes_lines_as_sentences() -> None:
    assert of("one two\nthree four", "three four\none two") == pytest.approx([1, 2 / 3, 0.5, 1])


@pytest.mark.parametrize(
    ("reference", "prediction"),
    [("words", ""), ("", "words"), ("", ""), ("a\n\nb", "\n"), ("東京", "北"), ("!", "!"), ("caf\u00e9", "cafe")],
)
def test_no_shared_word_is_zero(reference: str, prediction: str) -> None:
    assert of(reference, prediction) == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "text",
    [
        "東京は日本の首都です",
        "Москва — столица России",
        "नई दिल्ली भारत की राजधानी है",
        "서울은 수도다",
        "القاهرة عاصمة مصر",
        "😀 🚀",
        "กรุงเทพ",
    ],
)
def test_text_of_any_script_is_itself(text: str) -> None:
    assert of(text, text) == [1, 1, 1, 1]


@given(st.text())
def test_any_text_with_two_words_is_itself(text: str) -> None:
    assert of(text, text) == pytest.approx(
        [1 if rouge_words(text) else 0, 1 if len(rouge_words(text)) > 1 else 0] + [1 if rouge_words(text) else 0] * 2
    )


@given(st.text(st.characters(codec="ascii")), st.text(st.characters(codec="ascii")))
def test_ascii_words_are_rouge_scores_own(reference: str, prediction: str) -> None:
    scores = RougeScorer(list(TYPES), use_stemmer=True).score(reference, prediction)
    assert of(reference, prediction) == [scores[name].fmeasure for name in TYPES]


def test_words_of_other_scripts() -> None:
    assert rouge_words("Na\u00efve cafe\u0301s don't_run") == ["na\u00efve", "caf\u00e9s", "don", "t", "run"]
    assert rouge_words("私はGPUです") == ["私", "は", "gpu", "で", "す"]


def test_per_example_and_mean_equal_rouge_score() -> None:
    references = ["A tool to query databases\nand to print them", "fast JSON parser", "a library"]
    predictions = ["prints databases\na querying tool", "fast JSON parser", "library for users"]
    scores, means = rouge_per_example(references, predictions), rouge_scores(references, predictions)
    for name in TYPES:
        scorer = RougeScorer([name], use_stemmer=True)
        alone = [scorer.score(*pair)[name].fmeasure for pair in zip(references, predictions, strict=True)]
        assert scores[name].tolist() == alone
        assert means[name] == pytest.approx(sum(alone) / 3)
