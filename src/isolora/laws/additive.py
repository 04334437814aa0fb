"""Chinchilla's law: a floor, a term in the base's size and one in the tokens (Hoffmann et al. 2203.15556)."""

from __future__ import annotations

from isolora.laws.base import Array, Columns, Law, Shape, stack


def _log_terms(shapes_KQ: Array, logs: Columns) -> Array:
    size_KM = -shapes_KQ[:, :1] * logs["n"]
    data_KM = -shapes_KQ[:, 1:] * logs["d"]
    return stack(0.0, size_KM, data_KM)


law = Law(
    name="additive",
    citation="Hoffmann et al. 2203.15556",
    formula="E + A n^-a + B d^-b",
    coefficients=("E", "A", "B"),
    shapes=(Shape("a"), Shape("b")),
    demands={"n": 3, "d": 3},
    log_terms=_log_terms,
    sentence="one floor, one term for the base's size and one for the tokens; each is a bottleneck of its own.",
    aliases=("chinchilla", "hoffmann"),
)
