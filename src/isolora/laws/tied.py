"""An additive law with one exponent for size and data, which few points can carry (the symmetric case of Hoffmann et al.)."""

from __future__ import annotations

from isolora.laws.base import Array, Columns, Law, Shape, stack


def _log_terms(shapes_KQ: Array, logs: Columns) -> Array:
    exponent_K1 = shapes_KQ[:, :1]
    return stack(0.0, -exponent_K1 * logs["n"], -exponent_K1 * logs["d"])


law = Law(
    name="tied",
    citation="Hoffmann et al. 2203.15556, with a = b",
    formula="E + A n^-a + B d^-a",
    coefficients=("E", "A", "B"),
    shapes=(Shape("a"),),
    demands={"n": 3, "d": 3},
    log_terms=_log_terms,
    sentence="the additive law with one exponent for size and data: fewer parameters, for studies of few points.",
    aliases=("additive-tied",),
)
