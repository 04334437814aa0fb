"""How far a parameter that ended at a bound could be from it: what else fits nearly as well.

At a bound the bootstrap says too little: where the best floor is 0, it is 0 in nearly every replicate, although a floor of
half the smallest error may fit the same points. So the parameter is moved inwards, the others are refitted, and the farthest
value that the points still allow is kept, with the law that goes with it: the interval reaches to what that law says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from isolora.fit.descent import descend
from isolora.fit.optimum import Optimum
from isolora.laws import Array

_FLOOR_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)
"""Of the smallest loss: where floors are tried."""
_SHAPE_SHARES = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8)
"""Of the range of a shape, inwards from the end where it is."""
_VANISHED = 0.02
"""Share of the smallest loss below which a floor counts as none."""
_HALF_CHI_SQUARED = 1.92
_RUN_SHARE = 1 / 3
"""Of the variance of a point that its whole run has in common."""
_STEPS = 60


def pinned(found: Optimum) -> tuple[str, ...]:
    """A floor that vanished, and shapes that ended at an end of where they were looked for."""
    return tuple(found.problem.law.parameters[index] for index in _pinned(found))


def edges(found: Optimum) -> dict[str, tuple[float, ...]]:
    """For each pinned parameter the law's parameters (T,) with it as far from its bound as the points allow; none where they
    allow nothing else."""
    names = found.problem.law.parameters
    allowed = {names[index]: farthest for index in _pinned(found) if (farthest := _farthest(found, index)) is not None}
    return {name: tuple(map(float, found.problem.theta(z_Z[None, :])[0])) for name, z_Z in allowed.items()}


def _pinned(found: Optimum) -> list[int]:
    law, low_Z, high_Z = found.problem.law, found.problem.low, found.problem.high
    z_Z, count = found.z[0], len(law.coefficients)
    at_end_Z = (z_Z <= low_Z + 1e-6) | (z_Z >= high_Z - 1e-6)
    vanished = [0] if _has_floor(found) and found.theta[0, 0] < _VANISHED * found.points.loss.min() else []
    return [*vanished, *(index for index in range(count, len(z_Z)) if at_end_Z[index])]


def _has_floor(found: Optimum) -> bool:
    """Whether the first coefficient stands alone."""
    terms_1CM, _ = found.problem.centred_terms(found.z[:1, len(found.problem.law.coefficients) :])
    return bool(np.abs(terms_1CM[0, 0]).max() == 0)


def _farthest(found: Optimum, index: int) -> Array | None:
    limit = found.objective[0] * np.exp(_HALF_CHI_SQUARED / _independent_points(found))
    z_Z, kept = found.z[0], None
    for value in _tried(found, index):
        low_Z, high_Z = found.problem.low.copy(), found.problem.high.copy()
        low_Z[index] = high_Z[index] = value
        held = replace(found.problem, low=low_Z, high=high_Z)
        ended = descend(held, z_Z[None, :], np.log(found.points.loss), found.weight[:1], _STEPS, tolerance=1e-5)
        if ended.objective[0] > limit:
            break
        z_Z = kept = ended.z[0]
    return kept


def _tried(found: Optimum, index: int) -> Iterator[float]:
    """Values of z, from the bound inwards."""
    if index < len(found.problem.law.coefficients):
        yield from np.log(np.array(_FLOOR_SHARES) * found.points.loss.min())
        return
    low, high = found.problem.low[index], found.problem.high[index]
    start, end = (low, high) if found.z[0, index] - low < high - found.z[0, index] else (high, low)
    yield from (start + share * (end - start) for share in _SHAPE_SHARES)


def _independent_points(found: Optimum) -> float:
    """How many independent points as much is told by: those of one run share its luck."""
    count, runs = len(found.points), len(found.points.names)
    return count / (1 + max(count / runs - 1, 0.0) * _RUN_SHARE)
