"""What each option comes to for a budget, and how one is chosen of several: prudently, and of equal ranks the smallest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from isolora.fit import Fit
from isolora.json_types import JsonMapping
from isolora.laws import Array
from isolora.plan.budget import Budget
from isolora.plan.limits import Limits, allowed_tokens, best_tokens
from isolora.plan.next_runs import joined
from isolora.plan.options import Option

ONE_SIGMA = 0.6827
"""Level of the interval whose upper end options are compared by."""
LARGEST_TIE = 0.005
"""Share of the loss: a law noisier than this still does not call ranks equal that lie further apart."""


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


def tie(fit: Fit) -> float:
    """Share of the loss within which two predictions count as equal."""
    return min(fit.noise, LARGEST_TIE)


def choose(rows: Sequence[JsonMapping], tie: float) -> int:
    """Lowest prudent loss; then, of that model and method, the smallest rank whose prediction is within `tie` (a share of the
    loss) of the best rank's. Predictions, unlike prudent losses, change steadily with the budget, so that ranks do not jump."""
    best = min(rows, key=lambda row: float(row["prudent_loss"]))
    alike = [i for i, row in enumerate(rows) if (row["model"], row["method"]) == (best["model"], best["method"])]
    lowest = min(float(rows[i]["predicted_loss"]) for i in alike)
    equal = [i for i in alike if rows[i]["predicted_loss"] <= lowest * (1 + tie)]
    return min(equal, key=lambda i: (int(rows[i]["rank"] or 0), float(rows[i]["prudent_loss"])))


def chosen_at(fit: Fit, options: Sequence[Option], limits: Limits, smallest: float, budget: Budget) -> JsonMapping | None:
    """What a plan would choose for another budget: model, method, rank, FLOPs, and the `models` that it chose from; None where
    no option may be trained."""
    bought = [(option, allowed_tokens(fit, option, budget, limits, smallest)[0]) for option in options]
    runs = [(option, best_tokens(fit, option, tokens, smallest, limits.examples)) for option, tokens in bought if tokens > 0]
    if not runs:
        return None
    columns = joined([option.columns(tokens, option.unique_tokens(limits.examples)) for option, tokens in runs])
    predicted, prudent = fit.predict(columns), fit.interval(columns, ONE_SIGMA)[1]
    rows = [
        {
            "model": option.model,
            "method": option.method,
            "rank": option.rank,
            "flops": option.flops_per_token * tokens,
            "predicted_loss": predicted[i],
            "prudent_loss": prudent[i],
        }
        for i, (option, tokens) in enumerate(runs)
    ]
    return {**rows[choose(rows, tie(fit))], "models": {option.model for option, _ in runs}}
