"""Tokens seen again are worth less and less (Muennighoff et al. 2305.16264): Chinchilla's law in effective tokens.

With u unique tokens and r = d/u - 1 repeats, the effective tokens are u (1 + R (1 - exp(-r/R))): R is how many repeats a
corpus can be worth. Up to one pass the effective tokens are the tokens.
"""

from __future__ import annotations

import numpy as np

from isolora.laws.base import Array, Columns, Law, Shape, stack


def log_effective_tokens(log_repeats_worth_K1: Array, logs: Columns) -> Array:
    """Natural logarithm of the effective tokens, (K, M)."""
    repeats_worth_K1 = np.exp(log_repeats_worth_K1)
    repeats_M = np.maximum(np.expm1(logs["d"] - logs["u"]), 0.0)
    gained_KM = worth_of(repeats_M, repeats_worth_K1)
    log_KM: Array = np.minimum(logs["d"], logs["u"]) + np.log(1.0 + gained_KM)
    return log_KM


def worth_of(repeats: Array, most_K1: Array) -> Array:
    """What repeats are worth together, at most `most`, (K, M). `expm1` takes four times as long as `exp`, and the rounding that
    it spares, 1e-14, is nothing here."""
    worth_KM: Array = most_K1 * (1.0 - np.exp(-repeats / most_K1))
    return worth_KM


def _log_terms(shapes_KQ: Array, logs: Columns) -> Array:
    size_KM = -shapes_KQ[:, :1] * logs["n"]
    data_KM = -shapes_KQ[:, 1:2] * log_effective_tokens(shapes_KQ[:, 2:], logs)
    return stack(0.0, size_KM, data_KM)


law = Law(
    name="data-constrained",
    citation="Muennighoff et al. 2305.16264",
    formula="E + A n^-a + B d'^-b, d' = u (1 + R (1 - exp((1 - d/u)/R)))",
    coefficients=("E", "A", "B"),
    shapes=(Shape("a"), Shape("b"), Shape("R", low=-1.0, high=5.0, log=True)),
    demands={"n": 3, "d": 3, "u": 1},
    log_terms=_log_terms,
    sentence="the additive law in effective tokens: tokens seen again are worth less and less.",
    aliases=("muennighoff-data",),
)
