"""One base whose loss rises again with passes: a power of the tokens and a penalty in repeats (Lovelace et al. 2605.01640)."""

from __future__ import annotations

from isolora.laws.base import Array, Columns, Law, Shape, stack
from isolora.laws.overfitting import log_penalty


def _log_terms(shapes_KQ: Array, logs: Columns) -> Array:
    data_KM = -shapes_KQ[:, :1] * logs["d"]
    return stack(0.0, data_KM, log_penalty(shapes_KQ[:, 1:], logs))


law = Law(
    name="rising",
    citation="Lovelace et al. 2605.01640",
    formula="E + B d^-b + P (d/u - 1)^q",
    coefficients=("E", "B", "P"),
    shapes=(Shape("b"), Shape("q", 0.5, 2.5)),
    demands={"d": 4, "u": 1},
    log_terms=_log_terms,
    sentence="one base: the loss falls with tokens and rises with repeats of them.",
    aliases=("lovelace-one-base",),
)
