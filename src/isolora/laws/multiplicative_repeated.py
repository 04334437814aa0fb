"""Two base models, to which tokens seen again are worth less and less: size and effective tokens scale one common term.

The multiplicative law (Zhang et al. 2402.17193) in effective tokens (Muennighoff et al. 2305.16264). Two sizes do not carry the
additive one, whose floor and size term they cannot tell apart; a law without repeats would take every pass for new tokens.
"""

from __future__ import annotations

from isolora.laws.base import Array, Columns, Law, Shape, stack
from isolora.laws.data_constrained import log_effective_tokens


def _log_terms(shapes_KQ: Array, logs: Columns) -> Array:
    joint_KM = -shapes_KQ[:, :1] * logs["n"] - shapes_KQ[:, 1:2] * log_effective_tokens(shapes_KQ[:, 2:], logs)
    return stack(0.0, joint_KM)


law = Law(
    name="multiplicative-repeated",
    citation="Zhang et al. 2402.17193 and Muennighoff et al. 2305.16264",
    formula="E + A n^-a d'^-b, d' = u (1 + R (1 - exp((1 - d/u)/R)))",
    coefficients=("E", "A"),
    shapes=(Shape("a"), Shape("b"), Shape("R", low=-1.0, high=5.0, log=True)),
    demands={"n": 2, "d": 3, "u": 2},
    log_terms=_log_terms,
    two_sizes=True,
    sentence="two bases: size and effective tokens scale one common term; tokens seen again are worth less and less.",
)
