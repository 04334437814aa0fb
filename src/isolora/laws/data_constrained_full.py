"""Muennighoff's full law (2305.16264): repeats and excess parameters are both worth less and less.

With u unique tokens only U = min(n, G u) weights are of full use; the n/U - 1 beyond them count as repeats of parameters,
worth at most S (the paper's R*_N, 5.31) times U, as repeated tokens are worth at most R (R*_D, 15.4) times u.
"""

from __future__ import annotations

import numpy as np

from isolora.laws.base import Array, Columns, Law, Shape, stack
from isolora.laws.data_constrained import log_effective_tokens, worth_of


def log_effective_parameters(log_worth_K1: Array, log_per_token_K1: Array, logs: Columns) -> Array:
    """Natural logarithm of the effective parameters, (K, M)."""
    useful_KM = np.minimum(logs["n"], log_per_token_K1 + logs["u"])
    worth_K1 = np.exp(log_worth_K1)
    excess_KM = np.exp(np.minimum(logs["n"] - useful_KM, 50.0)) - 1.0
    log_KM: Array = useful_KM + np.log(1.0 + worth_of(excess_KM, worth_K1))
    return log_KM


def _log_terms(shapes_KQ: Array, logs: Columns) -> Array:
    parameters_KM = log_effective_parameters(shapes_KQ[:, 3:4], shapes_KQ[:, 4:], logs)
    tokens_KM = log_effective_tokens(shapes_KQ[:, 2:3], logs)
    return stack(0.0, -shapes_KQ[:, :1] * parameters_KM, -shapes_KQ[:, 1:2] * tokens_KM)


law = Law(
    name="data-constrained-full",
    citation="Muennighoff et al. 2305.16264",
    formula=(
        "E + A n'^-a + B d'^-b, d' = u (1 + R (1 - exp((1 - d/u)/R))), n' = U (1 + S (1 - exp((1 - n/U)/S))), U = min(n, G u)"
    ),
    coefficients=("E", "A", "B"),
    shapes=(
        Shape("a"),
        Shape("b"),
        Shape("R", low=-1.0, high=5.0, log=True),
        Shape("S", low=-1.0, high=5.0, log=True),
        Shape("G", low=-7.0, high=1.0, log=True),
    ),
    demands={"n": 4, "d": 4, "u": 2},
    log_terms=_log_terms,
    sentence="repeated tokens and excess parameters are both worth less and less.",
    aliases=("muennighoff",),
)
