"""A plateau before the power law: little data changes little (Lin et al. 2402.02314), with a term in size.

The paper writes B / (D_l + d^b); here D_l = T^b, so that T is the token count at which half of the plateau is gone.
"""

from __future__ import annotations

from isolora.laws.base import Array, Columns, Law, Shape, stack
from isolora.laws.plateau import log_one_plus_exp


def _log_terms(shapes_KQ: Array, logs: Columns) -> Array:
    size_KM = -shapes_KQ[:, :1] * logs["n"]
    data_KM = -log_one_plus_exp(shapes_KQ[:, 1:2] * (logs["d"] - shapes_KQ[:, 2:]))
    return stack(0.0, size_KM, data_KM)


law = Law(
    name="rectified",
    citation="Lin et al. 2402.02314",
    formula="E + A n^-a + B / (1 + (d/T)^b)",
    coefficients=("E", "A", "B"),
    shapes=(Shape("a"), Shape("b"), Shape("T", low=-3.0, high=2.0, log=True, column="d")),
    demands={"n": 3, "d": 4},
    log_terms=_log_terms,
    anchored=True,
    sentence="the additive law with a plateau before the data's power law.",
    aliases=("lin",),
)
