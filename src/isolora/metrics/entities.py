"""Precision, recall and F1 of named entities in BIO tags, read as by conlleval (Tjong Kim Sang and Buchholz, CoNLL-2000)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isolora.errors import DataError

Entity = tuple[str, int, int]
"""Type, first token, last token."""


def repair(tags: Sequence[str]) -> list[str]:
    """The same entities with each opened by B-: an I- that continues no entity of its own type becomes B-.

    `O I-PER I-LOC` becomes `O B-PER B-LOC`, as conlleval reads it. Raises DataError for a tag that is not BIO.
    """
    repaired, open_type = [], ""
    for tag in tags:
        prefix, _, kind = tag.partition("-")
        if tag != "O" and not (prefix in ("B", "I") and kind):
            raise DataError(f"tag {tag!r} is not BIO (valid: O, B-TYPE, I-TYPE)")
        repaired.append(f"B-{kind}" if prefix == "I" and kind != open_type else tag)
        open_type = kind
    return repaired


def entity_scores(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """Scores (0..1) of predicted tags against the true ones, both [sentences][tokens] and repaired first.

    precision, recall, f1: micro over entities, right when type and both ends are; f1.TYPE for each type that occurs; accuracy:
    over tokens; token_f1: micro over tokens, those rightly O left out, right when the whole tag is. A ratio of nothing to
    nothing is 0. Source: seqeval (Nakayama 2018), whose values these are on repaired tags; token_f1 as scikit-learn's.
    """
    true, predicted = [repair(tags) for tags in true], [repair(tags) for tags in predicted]
    pairs = _entity_pairs(true, predicted)
    matched = Counter(kind for truth, guess in pairs for kind, *_ in truth & guess)
    guessed = Counter(kind for _, guess in pairs for kind, *_ in guess)
    existing = Counter(kind for truth, _ in pairs for kind, *_ in truth)
    equal = [a == b for a, b in zip(chain.from_iterable(true), chain.from_iterable(predicted), strict=True)]
    return {
        "precision": matched.total() / max(guessed.total(), 1),
        "recall": matched.total() / max(existing.total(), 1),
        "f1": f1([matched.total(), guessed.total(), existing.total()]),
        "accuracy": sum(equal) / max(len(equal), 1),
        "token_f1": f1(token_counts(true, predicted)),
        **{f"f1.{kind}": f1([matched[kind], guessed[kind], existing[kind]]) for kind in sorted(guessed | existing)},
    }


def entity_counts(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """Entities of each sentence [sentences, 3]: matched, predicted, true; what a bootstrap of F1 resamples."""
    rows = [(len(truth & guess), len(guess), len(truth)) for truth, guess in _entity_pairs(true, predicted)]
    return np.array(rows, np.int64).reshape(-1, 3)


def token_counts(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """Tokens of each sentence whose repaired tag is not O [sentences, 3]: matched, predicted, true."""
    return np.array([_token_row(repair(t), repair(p)) for t, p in zip(true, predicted, strict=True)], np.int64).reshape(-1, 3)


def f1(counts: ArrayLike) -> float:
    """F1 (0..1) of counts [3] or [sentences, 3], summed: matched, predicted, true; 0 where nothing is predicted or true."""
    matched, predicted, true = np.reshape(np.asarray(counts), (-1, 3)).sum(0)
    return float(2 * matched / max(predicted + true, 1))


def _token_row(true: Sequence[str], predicted: Sequence[str]) -> tuple[int, int, int]:
    matched = sum(a == b != "O" for a, b in zip(true, predicted, strict=True))
    return matched, sum(tag != "O" for tag in predicted), sum(tag != "O" for tag in true)


def _entity_pairs(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> list[tuple[set[Entity], set[Entity]]]:
    from seqeval.metrics.sequence_labeling import get_entities

    return [(set(get_entities(repair(t))), set(get_entities(repair(p)))) for t, p in zip(true, predicted, strict=True)]
