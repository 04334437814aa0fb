"""ROUGE: n-grams and longest common subsequences that a summary shares with its reference (Lin, ACL 2004 workshop)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
NO_SPACES = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai and Lao, Myanmar, Khmer
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])"  # kana and Han
)
"""Scripts that put no spaces between words: each character counts as one."""


def rouge_scores(references: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Mean F-measure (0..1) of ROUGE-1, -2, -L and -Lsum over texts [examples]; see rouge_per_example."""
    return {name: float(values.mean()) for name, values in rouge_per_example(references, predictions).items()}


def rouge_per_example(references: Sequence[str], predictions: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """F-measures (0..1) [examples] of ROUGE-1, -2, -L and -Lsum with Porter stemming, by the package rouge_score.

    Words are those of `words`: of ASCII text the same as rouge_score's own, which knows no other letters and rates text in
    another script 0 even against itself. Sentences, for Lsum, are lines: a text in one line has Lsum = L. An empty text scores 0,
    and so does a single word in ROUGE-2.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(TYPES, tokenizer=_Words())
    scores = [scorer.score(reference, text) for reference, text in zip(references, predictions, strict=True)]
    return {name: np.array([score[name].fmeasure for score in scores], np.float64) for name in TYPES}


def rouge_words(text: str) -> list[str]:
    """Runs of letters, marks and digits of any script in lower case, ASCII words stemmed; signs such as emoji, and characters of
    scripts without spaces, stand alone."""
    normal = unicodedata.normalize("NFC", text.lower())
    spaced = NO_SPACES.sub(r" \1 ", "".join(map(_as_word, normal)))
    return [_stemmer().stem(word) if len(word) > 3 and word.isascii() else word for word in spaced.split()]


def _as_word(character: str) -> str:
    """A character as it stands in a list of words; punctuation only separates them."""
    category = unicodedata.category(character)
    return character if category[0] in "LMN" else f" {character} " if category == "So" else " "


@cache
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()


class _Words:
    """A tokenizer as rouge_score wants one."""

    def tokenize(self, text: str) -> list[str]:
        return rouge_words(text)
