"""Held-out losses and scores between a run's first evaluation and its last, on a share of the documents: they cost little.

The documents are dealt into shares of like sizes, which take turns. At the first evaluation and at the last, on all of them, what
each share gives is known as well, and so what it differs by from all; between the two this difference is taken to change evenly
with the logarithm of tokens. Until the last evaluation it is taken to be what it was at the first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isolora.metrics.direction import is_score
from isolora.metrics.predictions import Predictions, all_scores
from isolora.runs.member import Member
from isolora.runs.prepared import HeldOut, RunExamples
from isolora.runs.progress import Progress, share_count
from isolora.tasks.base import Examples
from isolora.training.evaluator import Evaluator

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """rows: numbers of its held-out examples; documents: numbers of its documents, by what stands before their scores' names
    (`NAME/`; nothing for the run's own source), where scores are of documents; examples: these alone."""

    rows: Numbers
    documents: Mapping[str, Numbers]
    examples: RunExamples

    def scores(self, predictions: Mapping[str, Predictions]) -> dict[str, float]:
        """Of its documents, where answers to all are known."""
        return all_scores({name: part for name, part in predictions.items() if name in self.documents}, self.documents)


class HeldOutShares:
    """count: examples in each share, about; None: all of them, always."""

    def __init__(self, examples: RunExamples, count: int | None) -> None:
        self.on = examples.held_out
        self.documents = {"": len(self.on.documents), **{f"{name}/": len(on.documents) for name, on in examples.mixed.items()}}
        rows = dealt(self.on.examples, count)
        mixed = {name: _dealt_alike(on.examples, len(rows)) for name, on in examples.mixed.items()} if len(rows) > 1 else {}
        self.shares = [
            _share(examples, own, {name: parts[number] for name, parts in mixed.items()}) for number, own in enumerate(rows)
        ]

    def suffice(self, member: Member) -> bool:
        """Whether a share will do for the evaluation that is due."""
        return len(self.shares) > 1 and member.progress.first_evaluation > 0 and member.spent() < 1

    def estimates(
        self, evaluator: Evaluator, members: Sequence[Member], which: Sequence[int], answering: Sequence[int]
    ) -> dict[int, tuple[float, dict[str, float]]]:
        """(mean loss, scores by name) of these members, on all documents as far as is known. answering: members whose scores are
        wanted."""
        turns = {k: len(members[k].progress.share_losses) % len(self.shares) for k in which}
        found: dict[int, tuple[float, dict[str, float]]] = {}
        for number in set(turns.values()):
            together = [k for k in which if turns[k] == number]
            share = self.shares[number]
            rows, answers = evaluator.losses_and_predictions(share.examples, together, [k for k in together if k in answering])
            for k in together:
                loss, scores = share.examples.held_out.mean_loss(rows[k]), all_scores(answers.get(k, {}))
                found[k] = _noted(members[k].progress, number, loss, scores)
        return found

    def note_whole(
        self, progress: Progress, summed: NDArray[np.float64], predictions: Mapping[str, Predictions] | None = None
    ) -> dict[int, dict[str, float]]:
        """Learn from a member's first evaluation or its last, on all documents, by how much the shares differ from them; returns
        tokens -> `loss` and scores of the evaluations between, in that light.

        summed: the examples' losses; those that are not finite tell nothing. predictions: the answers, where there are any.
        """
        if len(self.shares) == 1 or not np.isfinite(summed).all():
            return {}
        gaps, score_gaps = self._gaps(summed), self._score_gaps(predictions or {})
        if not progress.first_evaluation:
            progress.first_evaluation, progress.share_gaps, progress.share_score_gaps = progress.tokens, gaps, score_gaps
        first, found = progress.first_evaluation, {}
        for number, (tokens, loss) in enumerate(progress.share_losses):
            part, way = number % len(self.shares), math.log(tokens / first) / math.log(progress.tokens / first)
            own, last = _at(progress.share_score_gaps, part), score_gaps[part]
            between = {name: (1 - way) * gap + way * last[name] for name, gap in own.items() if name in last}
            scores = _corrected(_at(progress.share_scores, number), between)
            found[tokens] = {"loss": loss + (1 - way) * progress.share_gaps[part] + way * gaps[part], **scores}
        return found

    def _gaps(self, summed: NDArray[np.float64]) -> list[float]:
        """Mean loss on all examples less that on each share."""
        whole = self.on.mean_loss(summed)
        return [whole - self.on.mean_loss(summed, share.rows) for share in self.shares]

    def _score_gaps(self, predictions: Mapping[str, Predictions]) -> list[dict[str, float]]:
        """Scores on all documents less those on each share, by name; of a task that answers some documents alone, as where
        few are generated for, none."""
        known = {name: part for name, part in predictions.items() if part.count == self.documents[name]}
        whole = all_scores(known)
        return [{name: whole[name] - value for name, value in share.scores(known).items()} for share in self.shares]


def _noted(progress: Progress, number: int, loss: float, scores: dict[str, float]) -> tuple[float, dict[str, float]]:
    """Remember what a share has given, and what that says of all documents."""
    progress.share_losses.append((progress.tokens, loss))
    progress.share_scores.append(scores)
    return loss + progress.share_gaps[number], _corrected(scores, _at(progress.share_score_gaps, number))


def _corrected(scores: Mapping[str, float], gaps: Mapping[str, float]) -> dict[str, float]:
    """A share's scores moved by what it differs by from all, none past its best value or below 0 for that. A score whose
    difference is not known is left out; so are all, where the share is scored in another form than among all documents, as
    questions of which each has an answer are."""
    if not gaps.keys() <= scores.keys():
        return {}
    moved = {name: scores[name] + gap for name, gap in gaps.items()}
    return {name: min(1.0, max(min(0.0, scores[name]), value)) if is_score(name) else value for name, value in moved.items()}


def _at(found: Sequence[dict[str, float]], number: int) -> dict[str, float]:
    """Nothing in a run that was begun before scores were measured on shares."""
    return found[number] if number < len(found) else {}


def dealt(examples: Examples, count: int | None) -> list[Numbers]:
    """Examples in shares of about `count`, those of a document together: documents are dealt out one by one in the order of their
    sizes."""
    return _dealt(examples, min(share_count(len(examples), count), len(np.unique(_documents(examples)))))


def _dealt(examples: Examples, parts: int) -> list[Numbers]:
    of_each = np.unique(_documents(examples), return_inverse=True)[1]
    order = np.argsort(np.bincount(of_each, examples.sizes), kind="stable")
    return [np.flatnonzero(np.isin(of_each, order[number::parts])) for number in range(parts)]


def _dealt_alike(examples: Examples, parts: int) -> list[Numbers]:
    """In so many shares; all examples in each where there are fewer documents than that."""
    if len(np.unique(_documents(examples))) < parts:
        return [np.arange(len(examples))] * parts
    return _dealt(examples, parts)


def _documents(examples: Examples) -> Numbers:
    return np.arange(len(examples)) if examples.documents is None else examples.documents


def _share(examples: RunExamples, rows: Numbers, mixed: Mapping[str, Numbers]) -> Share:
    """rows: numbers of held-out examples; mixed: the same of each source that is mixed in."""
    parts = {"": _part(examples.held_out, rows)} | {name: _part(examples.mixed[name], own) for name, own in mixed.items()}
    own = {name: part for name, (part, _) in parts.items() if name}
    documents = {f"{name}/" if name else "": found for name, (_, found) in parts.items() if found is not None}
    return Share(rows, documents, replace(examples, held_out=parts[""][0], mixed=own))


def _part(on: HeldOut, rows: Numbers) -> tuple[HeldOut, Numbers | None]:
    """Some of the examples, and the numbers of their documents; None where an example holds several."""
    examples = on.examples.subset(rows)
    if examples.documents is None:
        if len(on.examples) != len(on.documents):
            return HeldOut(on.task, examples, on.documents), None
        return HeldOut(on.task, examples, on.documents.at(rows.tolist())), rows
    places, renumbered = np.unique(examples.documents, return_inverse=True)
    return HeldOut(on.task, replace(examples, documents=renumbered), on.documents.at(places.tolist())), places
