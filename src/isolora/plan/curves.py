"""What a law says over many budgets, as plain arrays for a report: one budget over all options, the best option over budgets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from isolora.fit import Fit
from isolora.laws import Array
from isolora.plan.budget import Budget
from isolora.plan.options import Option

ONE_SIGMA = 0.6827
"""Level of the interval whose upper end options are compared by."""


def isoflop(fit: Fit, options: Sequence[Option], budget: float) -> dict[str, Array]:
    """One budget in FLOPs spent on each option: body_parameters, rank, tokens, loss, low and high (95 %), prudent_loss."""
    tokens = np.array([option.tokens(Budget(budget, "flops")) for option in options])
    rows = [option.columns(float(count)) for option, count in zip(options, tokens, strict=True)]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0] if all(name in row for row in rows)}
    low, high = fit.interval(columns)
    return {
        "body_parameters": np.array([option.body_parameters for option in options]),
        "rank": np.array([option.rank for option in options], dtype=float),
        "tokens": tokens,
        "loss": fit.predict(columns),
        "low": low,
        "high": high,
        "prudent_loss": fit.interval(columns, ONE_SIGMA)[1],
    }


def frontier(fit: Fit, options: Sequence[Option], budgets: Iterable[float]) -> dict[str, Array]:
    """The option with the lowest prudent loss at each budget in FLOPs: flops, option (its index) and what `isoflop` tells."""
    flops = np.array(list(budgets), dtype=float)
    profiles = [isoflop(fit, options, budget) for budget in flops]
    best = [int(profile["prudent_loss"].argmin()) for profile in profiles]
    picked = {name: np.array([profile[name][i] for profile, i in zip(profiles, best, strict=True)]) for name in profiles[0]}
    return {"flops": flops, "option": np.array(best, dtype=float), **picked}
