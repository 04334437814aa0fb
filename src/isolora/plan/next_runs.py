"""What to measure next: the runs that narrow the decision most for their FLOPs (Bayesian design of experiments, linearised).

Bootstrap draws and averaged laws disagree about the best loss at the budget. A run that would be measured at x explains, by
linear regression over the draws, cov(x, best)^2 / (var x + noise^2) of that variance; this over the run's price is its worth.
The first run is taken for its worth, the next for what it explains of the rest, and so on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from isolora.fit import Fit
from isolora.json_types import JsonObject
from isolora.laws import Array
from isolora.plan.budget import Budget
from isolora.plan.options import Option
from isolora.table import SETTINGS

_STEPS = (2.0, 4.0, 10.0)
"""Factors over the tokens that an option was followed for: nearer runs say little, a larger one is a leap of its own."""
_MOST = 3
_AGREED = 1e-9
"""Spread of the best log loss over the draws from which on they tell runs apart; a fit without a bootstrap has none."""
_LEAST_SHARE = 0.05
"""Of the fewest tokens measured: a shorter run would be less than a batch or say nothing."""


def next_runs(fit: Fit, options: Sequence[Option], budget: Budget, examples: int | None = None) -> list[JsonObject]:
    """At most three runs on the way from what was measured to the budget, smallest first; none where nothing can be trained."""
    candidates = [(option, tokens) for option in options if not option.rising for tokens in _ladder(option, budget)]
    if not candidates:
        return []
    chosen = _most_worth(fit, options, candidates, budget, examples)
    if not chosen:
        return steps_towards([option for option in options if not option.rising], budget)
    return sorted((grid_values(*candidates[i]) for i in chosen), key=lambda run: float(run["tokens"]))


def _ladder(option: Option, budget: Budget) -> list[float]:
    """Token counts to try: multiples of what was measured, up to what the budget buys; below it, the budget itself."""
    bought = option.tokens(budget)
    if not (math.isfinite(bought) and bought >= _LEAST_SHARE * option.smallest_tokens):
        return []
    return [step * option.largest_tokens for step in _STEPS if step * option.largest_tokens < bought] or [
        min(bought, _STEPS[-1] * option.largest_tokens)
    ]


def _most_worth(
    fit: Fit, options: Sequence[Option], candidates: Sequence[tuple[Option, float]], budget: Budget, examples: int | None
) -> list[int]:
    """Indices of the candidates, one an option, in the order of their worth; none where the draws agree about the best loss."""
    at_budget = [(option, tokens) for option in options if (tokens := option.tokens(budget)) > 0 and not option.rising]
    best_K = _log_losses(fit, at_budget, examples).min(axis=1)
    run_KC = _log_losses(fit, candidates, examples)
    price_C = np.array([option.price(budget.unit) * tokens for option, tokens in candidates])
    if best_K.std() < _AGREED:
        return []
    best_K, run_KC = best_K - best_K.mean(), run_KC - run_KC.mean(axis=0)
    chosen: list[int] = []
    while len(chosen) < min(_MOST, len({option.name for option, _ in candidates})):
        spread_C = (run_KC**2).mean(axis=0) + fit.noise**2
        covariance_C = (run_KC * best_K[:, None]).mean(axis=0)
        worth_C = covariance_C**2 / spread_C / price_C
        names = {candidates[i][0].name for i in chosen}
        worth_C[[option.name in names for option, _ in candidates]] = -1.0
        first = int(worth_C.argmax())
        chosen.append(first)
        share_K = run_KC[:, first] / spread_C[first]
        best_K = best_K - share_K * covariance_C[first]
        run_KC = run_KC - share_K[:, None] * (run_KC * run_KC[:, [first]]).mean(axis=0)
    return chosen


def _log_losses(fit: Fit, runs: Sequence[tuple[Option, float]], examples: int | None) -> Array:
    """Log losses (K, M) of runs under the draws."""
    return fit.sampled(joined([option.columns(tokens, option.unique_tokens(examples)) for option, tokens in runs]))


def joined(rows: Sequence[JsonObject]) -> JsonObject:
    """Rows in the laws' short names as columns; those that some row lacks are left out."""
    return {name: np.array([row[name] for row in rows]) for name in rows[0] if all(name in row for row in rows)}


def steps_towards(options: Sequence[Option], budget: Budget) -> list[JsonObject]:
    """The same where no draws are at hand, as on a page: of the options followed farthest, at most ten times as far."""
    ordered = sorted(options, key=lambda option: -np.nan_to_num(option.largest_flops, nan=option.largest_tokens))
    runs = []
    for option in ordered[:_MOST]:
        factor = max(option.tokens(budget) / option.largest_tokens, 1e-12)
        tokens = option.largest_tokens * (min(math.sqrt(factor), _STEPS[-1]) if factor > 1 else factor)
        if tokens >= _LEAST_SHARE * option.smallest_tokens:
            runs.append(grid_values(option, tokens))
    return sorted(runs, key=lambda run: float(run["tokens"]))


def grid_values(option: Option, tokens: float) -> JsonObject:
    """A run in the words of a study's grid."""
    return {
        "model": option.model,
        "method": option.method,
        "rank": option.rank or None,
        "learning_rate": option.learning_rate,
        "tokens": round(tokens),
        "flops": None if math.isnan(option.flops_per_token) else option.flops_per_token * tokens,
        **({SETTINGS: option.settings} if option.settings else {}),
    }
