"""One base model: the loss falls as a power of the tokens towards a floor (Hestness et al. 1712.00409)."""

from __future__ import annotations

from isolora.laws.base import Array, Columns, Law, Shape, stack


def _log_terms(shapes_KQ: Array, logs: Columns) -> Array:
    data_KM = -shapes_KQ[:, :1] * logs["d"]
    return stack(0.0, data_KM)


law = Law(
    name="power",
    citation="Hestness et al. 1712.00409",
    formula="E + B d^-b",
    coefficients=("E", "B"),
    shapes=(Shape("b"),),
    demands={"d": 3},
    log_terms=_log_terms,
    sentence="one base: the loss falls as a power of the tokens towards a floor.",
    aliases=("hestness",),
)
