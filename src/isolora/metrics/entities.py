"""Precision, recall and F1 of named entities in BIO tags, read as by conlleval (Tjong Kim Sang and Buchholz, CoNLL-2000)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

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
    counts = entity_counts(true, predicted)
    return counts.scores(np.arange(len(counts.tokens)))


@dataclass(frozen=True)
class EntityCounts:
    """What the scores of a sentence are made of; a bootstrap draws sentences.

    entities [sentences, kinds, 3]: matched, predicted and true ones of each of the `kinds`; tokens [sentences, 3]: likewise those
    whose tag is not O; equal [sentences, 2]: tokens whose tag is right, and all.
    """

    kinds: tuple[str, ...]
    entities: NDArray[np.int64]
    tokens: NDArray[np.int64]
    equal: NDArray[np.int64]

    def scores(self, rows: NDArray[np.int64]) -> dict[str, float]:
        """The scores of some sentences, by their numbers; see entity_scores."""
        times = np.bincount(rows, minlength=len(self.tokens))
        by_kind = np.tensordot(times, self.entities, 1)
        matched, predicted, true = by_kind.sum(0)
        right, tokens = times @ self.equal
        return {
            "precision": float(matched / max(predicted, 1)),
            "recall": float(matched / max(true, 1)),
            "f1": f1_of_counts((matched, predicted, true)),
            "accuracy": float(right / max(tokens, 1)),
            "token_f1": f1_of_counts(times @ self.tokens),
            **{f"f1.{kind}": f1_of_counts(row) for kind, row in zip(self.kinds, by_kind, strict=True) if row.any()},
        }


def entity_counts(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> EntityCounts:
    """Counts of each sentence, from true and predicted tags, both [sentences][tokens] and repaired first."""
    pairs = [(repair(truth), repair(guess)) for truth, guess in zip(true, predicted, strict=True)]
    entities = [(entities_of(truth), entities_of(guess)) for truth, guess in pairs]
    kinds = sorted({kind for both in entities for found in both for kind, *_ in found})
    by_kind = [[_by_kind(found, kinds) for found in (truth & guess, guess, truth)] for truth, guess in entities]
    return EntityCounts(
        tuple(kinds),
        np.array(by_kind, np.int64).reshape(len(pairs), 3, len(kinds)).swapaxes(1, 2),
        np.array([_token_row(*pair) for pair in pairs], np.int64).reshape(-1, 3),
        np.array([(sum(map(str.__eq__, *pair)), len(pair[0])) for pair in pairs], np.int64).reshape(-1, 2),
    )


def f1_of_counts(counts: ArrayLike) -> float:
    """F1 (0..1) of counts [3]: matched, predicted, true; 0 where nothing is predicted or true."""
    matched, predicted, true = np.asarray(counts)
    return float(2 * matched / max(predicted + true, 1))


def _token_row(true: Sequence[str], predicted: Sequence[str]) -> tuple[int, int, int]:
    matched = sum(a == b != "O" for a, b in zip(true, predicted, strict=True))
    return matched, sum(tag != "O" for tag in predicted), sum(tag != "O" for tag in true)


def entities_of(tags: Sequence[str]) -> set[Entity]:
    """The entities of repaired tags."""
    from seqeval.metrics.sequence_labeling import get_entities

    return set(get_entities(list(tags)))


def _by_kind(entities: set[Entity], kinds: Sequence[str]) -> list[int]:
    counted = Counter(kind for kind, *_ in entities)
    return [counted[kind] for kind in kinds]
