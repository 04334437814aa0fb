"""An additive law whose data term grows or shrinks with the base: what data buys depends on the size that it meets."""

from __future__ import annotations

from isolora.laws.base import Array, Columns, Law, Shape, stack


def _log_terms(shapes_KQ: Array, logs: Columns) -> Array:
    size_KM = -shapes_KQ[:, :1] * logs["n"]
    data_KM = shapes_KQ[:, 2:3] * logs["n"] - shapes_KQ[:, 1:2] * logs["d"]
    return stack(0.0, size_KM, data_KM)


law = Law(
    name="interacting",
    citation="Hoffmann et al. 2203.15556, with the interaction of Zhang et al. 2402.17193",
    formula="E + A n^-a + B n^g d^-b",
    coefficients=("E", "A", "B"),
    shapes=(Shape("a"), Shape("b"), Shape("g", -0.5, 0.5)),
    demands={"n": 3, "d": 4},
    log_terms=_log_terms,
    sentence="the additive law whose data term depends on the size that the data meets.",
)
