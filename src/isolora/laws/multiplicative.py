"""Fine-tuning's multiplicative law: size and tokens scale one common term (Zhang et al. 2402.17193)."""

from __future__ import annotations

from isolora.laws.base import Array, Columns, Law, Shape, stack


def _log_terms(shapes_KQ: Array, logs: Columns) -> Array:
    joint_KM = -shapes_KQ[:, :1] * logs["n"] - shapes_KQ[:, 1:] * logs["d"]
    return stack(0.0, joint_KM)


law = Law(
    name="multiplicative",
    citation="Zhang et al. 2402.17193",
    formula="E + A n^-a d^-b",
    coefficients=("E", "A"),
    shapes=(Shape("a"), Shape("b")),
    demands={"n": 2, "d": 3},
    log_terms=_log_terms,
    sentence="size and tokens scale one common term, so that data helps a larger base by the same factor.",
    aliases=("zhang",),
)
