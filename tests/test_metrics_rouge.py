"""ROUGE by hand, and against rouge_score."""

from __future__ import annotations

import pytest
from rouge_score.rouge_scorer import RougeScorer

from isolora.metrics.rouge import TYPES, rouge_per_example, rouge_scores


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
    [("words", ""), ("", "words"), ("", ""), ("a\n\nb", "\n"), ("東京 is", "東京"), ("😀", "😀"), ("caf\u00e9", "cafe\u0301")],
)
def test_no_shared_ascii_word_is_zero(reference: str, prediction: str) -> None:
    assert of(reference, prediction) == [0, 0, 0, 0]


def test_per_example_and_mean_equal_rouge_score() -> None:
    references = ["A tool to query databases\nand to print them", "fast JSON parser", "日本 library"]
    predictions = ["prints databases\na querying tool", "fast JSON parser", "library for naïve users"]
    scores, means = rouge_per_example(references, predictions), rouge_scores(references, predictions)
    for name in TYPES:
        scorer = RougeScorer([name], use_stemmer=True)
        alone = [scorer.score(*pair)[name].fmeasure for pair in zip(references, predictions, strict=True)]
        assert scores[name].tolist() == alone
        assert means[name] == pytest.approx(sum(alone) / 3)
