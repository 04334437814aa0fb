"""Held-out losses between a run's first evaluation and its last, on a share of the examples, so that they cost little.

The examples are dealt into shares of like sizes, which take turns. At the first evaluation and at the last, on all examples, the
mean of each share is known as well, and so what it differs by from the mean of all; between the two this difference is taken to
change evenly with the logarithm of tokens. Until the last evaluation it is taken to be what it was at the first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from isolora.config import RunConfig
from isolora.errors import ConfigError
from isolora.runs.member import Member
from isolora.runs.prepared import HeldOut
from isolora.runs.progress import Progress, share_count
from isolora.tasks.base import Examples, Task
from isolora.training.evaluator import Evaluator


class HeldOutShares:
    """count: examples in each share, about; None: all of them, always."""

    def __init__(self, on: HeldOut, count: int | None) -> None:
        self.on, self.parts = on, dealt(on.examples, count)

    def suffice(self, member: Member) -> bool:
        """Whether a share will do for the evaluation that is due."""
        return len(self.parts) > 1 and member.progress.first_evaluation > 0 and member.spent() < 1

    def losses(self, evaluator: Evaluator, members: Sequence[Member], which: Sequence[int]) -> dict[int, float]:
        """Mean loss of these members, on all examples as far as is known."""
        turns = {k: len(members[k].progress.share_losses) % len(self.parts) for k in which}
        found: dict[int, float] = {}
        for number in set(turns.values()):
            found |= self._losses(evaluator, members, [k for k in which if turns[k] == number], number)
        return found

    def _losses(self, evaluator: Evaluator, members: Sequence[Member], together: Sequence[int], number: int) -> dict[int, float]:
        """The same of members whose turn it is with this share."""
        rows, found = self.parts[number], {}
        for k, summed in zip(together, evaluator.row_losses(self.on, together, rows), strict=True):
            progress, loss = members[k].progress, self.on.mean_loss(summed, rows)
            progress.share_losses.append((progress.tokens, loss))
            found[k] = loss + progress.share_gaps[number]
        return found

    def note_whole(self, progress: Progress, summed: NDArray[np.float64]) -> dict[int, float]:
        """Learn from a member's first evaluation or its last, on all examples, by how much the shares differ from them; returns
        tokens -> mean loss of the evaluations between, in that light. summed: the examples' losses; those that are not finite
        tell nothing."""
        if len(self.parts) == 1 or not np.isfinite(summed).all():
            return {}
        gaps = self._gaps(summed)
        if not progress.first_evaluation:
            progress.first_evaluation, progress.share_gaps = progress.tokens, gaps
        first, found = progress.first_evaluation, {}
        for number, (tokens, loss) in enumerate(progress.share_losses):
            part, way = number % len(self.parts), math.log(tokens / first) / math.log(progress.tokens / first)
            found[tokens] = loss + (1 - way) * progress.share_gaps[part] + way * gaps[part]
        return found

    def _gaps(self, summed: NDArray[np.float64]) -> list[float]:
        """Mean loss on all examples less that on each share."""
        whole = self.on.mean_loss(summed)
        return [whole - self.on.mean_loss(summed, rows) for rows in self.parts]


def dealt(examples: Examples, count: int | None) -> list[NDArray[np.int64]]:
    """Examples in shares of about `count`: dealt out one by one in the order of their sizes."""
    parts = share_count(len(examples), count)
    order = np.argsort(examples.sizes, kind="stable")
    return [np.sort(order[number::parts]) for number in range(parts)]


def demand_unscored(config: RunConfig, task: Task) -> None:
    """Raises ConfigError where points have scores, which are of all held-out examples."""
    if config.training.evaluate_between is not None and task.scores_points:
        raise ConfigError(
            f"training.evaluate_between: task {task.name} is scored at every point, on all held-out examples; leave it out (null)"
        )
