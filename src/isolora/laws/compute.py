"""The loss as a power of the training compute alone, for tables that say no more (Kaplan et al. 2001.08361)."""

from __future__ import annotations

from isolora.laws.base import Array, Columns, Law, Shape, stack


def _log_terms(shapes_KQ: Array, logs: Columns) -> Array:
    return stack(0.0, -shapes_KQ[:, :1] * logs["c"])


law = Law(
    name="compute",
    citation="Kaplan et al. 2001.08361, with a floor",
    formula="E + K c^-k",
    coefficients=("E", "K"),
    shapes=(Shape("k"),),
    demands={"c": 3},
    log_terms=_log_terms,
    last_resort=True,
    sentence="the loss falls as a power of the FLOPs; only for points that lie on one compute-optimal line.",
    aliases=("kaplan", "L(C)"),
)
