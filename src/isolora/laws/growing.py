"""What grows with training: a floor and a rising power of the tokens, as forgetting does (Kalajdzievski 2401.05605)."""

from __future__ import annotations

from isolora.laws.base import Array, Columns, Law, Shape, stack


def _log_terms(shapes_KQ: Array, logs: Columns) -> Array:
    data_KM = shapes_KQ[:, :1] * logs["d"]
    return stack(0.0, data_KM)


law = Law(
    name="growing",
    citation="Kalajdzievski 2401.05605",
    formula="E + F d^f",
    coefficients=("E", "F"),
    shapes=(Shape("f"),),
    demands={"d": 3},
    log_terms=_log_terms,
    grows=True,
    sentence="what grows with training, such as forgetting; fitted when asked for.",
    aliases=("kalajdzievski",),
)
