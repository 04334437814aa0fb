"""One base model: a plateau, then a power of the tokens (Lin et al. 2402.02314), as of a score that stays at 0 for a while.

The paper writes B / (D_l + d^b); here D_l = T^b, so that T is the token count at which half of the plateau is gone.
"""

from __future__ import annotations

import numpy as np

from isolora.laws.base import Array, Columns, Law, Shape, stack


def log_one_plus_exp(x: Array) -> Array:
    """As numpy's `logaddexp(0, x)`, which takes six times as long."""
    found: Array = np.maximum(x, 0.0) + np.log(1.0 + np.exp(np.minimum(x, -x)))
    return found


def _log_terms(shapes_KQ: Array, logs: Columns) -> Array:
    data_KM = -log_one_plus_exp(shapes_KQ[:, :1] * (logs["d"] - shapes_KQ[:, 1:]))
    return stack(0.0, data_KM)


law = Law(
    name="plateau",
    citation="Lin et al. 2402.02314",
    formula="E + B / (1 + (d/T)^b)",
    coefficients=("E", "B"),
    shapes=(Shape("b", high=4.0), Shape("T", low=-3.0, high=2.0, log=True, column="d")),
    demands={"d": 4},
    log_terms=_log_terms,
    anchored=True,
    sentence="one base: little data changes little, then a power law.",
    aliases=("lin-one-base",),
)
