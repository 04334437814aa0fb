"""One base model, to which tokens seen again are worth less and less: a power of effective tokens (Muennighoff 2305.16264)."""

from __future__ import annotations

from isolora.laws.base import Array, Columns, Law, Shape, stack
from isolora.laws.data_constrained import log_effective_tokens


def _log_terms(shapes_KQ: Array, logs: Columns) -> Array:
    data_KM = -shapes_KQ[:, :1] * log_effective_tokens(shapes_KQ[:, 1:], logs)
    return stack(0.0, data_KM)


law = Law(
    name="repeated",
    citation="Muennighoff et al. 2305.16264",
    formula="E + B d'^-b, d' = u (1 + R (1 - exp((1 - d/u)/R)))",
    coefficients=("E", "B"),
    shapes=(Shape("b"), Shape("R", low=-1.0, high=5.0, log=True)),
    demands={"d": 3, "u": 2},
    log_terms=_log_terms,
    sentence="one base: tokens seen again are worth less and less.",
    aliases=("muennighoff-one-base",),
)
