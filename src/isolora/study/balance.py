"""Which stacks a study hands out, and in which order, so that its workers finish together.

The longest first; and where one worker would still be waiting for another, a stack is cut in two. On a CPU a stack trains hardly
faster than its members one by one (docs/decisions), so that a cut costs one more loading of the base and little else.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from isolora import models
from isolora.config import RunConfig
from isolora.paths import is_folder
from isolora.study.design import Job

WORTH_A_CUT = 0.95
"""Of the time before: a cut that leaves more is not made."""
OVERHEAD_BYTES = 5e5
"""What a token costs beside its products with the weights, in bytes of weights. Stacks of a study on three packaged bases of 0.5,
0.8 and 1.7 MB took 10, 15 and 22 s."""

SizeOf = Callable[[RunConfig], float]
"""About how long a run takes, in any unit."""


def run_size(run: RunConfig) -> float:
    """Bytes of weights that all tokens of the run go through."""
    unit, amount = run.training.budget
    tokens = amount * {"tokens": 1, "steps": run.training.batch_tokens}.get(unit, 1)
    return tokens if unit == "flops" else tokens * (OVERHEAD_BYTES + weight_bytes(run.model))


@cache
def weight_bytes(model: str) -> int:
    """Of a model in a folder; 0 where nothing is known of it before it is loaded."""
    place = models.locate(model)
    return sum(file.stat().st_size for file in Path(place).glob("*.safetensors")) if is_folder(place) else 0


def balanced(jobs: Sequence[Job], workers: int, size_of: SizeOf = run_size) -> list[Job]:
    """The stacks as they are to be handed out, some cut in two where that saves time; one worker takes them as they are."""
    cut, taken = list(jobs), partial(makespan, workers=workers, size_of=size_of)
    while workers > 1:
        halved = min((_with_halves(cut, k) for k, job in enumerate(cut) if len(job) > 1), key=taken, default=cut)
        if taken(halved) > WORTH_A_CUT * taken(cut):
            return sorted(cut, key=lambda job: -sum(map(size_of, job)))
        cut = halved
    return cut


def _with_halves(jobs: Sequence[Job], k: int) -> list[Job]:
    middle = (len(jobs[k]) + 1) // 2
    return [*jobs[:k], jobs[k][:middle], jobs[k][middle:], *jobs[k + 1 :]]


def makespan(jobs: Sequence[Job], workers: int, size_of: SizeOf) -> float:
    """When the last worker is done, each taking the longest stack that is left whenever it has nothing to do."""
    until = [0.0] * workers
    for size in sorted((sum(map(size_of, job)) for job in jobs), reverse=True):
        heapq.heapreplace(until, until[0] + size)
    return max(until)
