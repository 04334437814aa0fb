"""How one option is chosen of several: prudently, and of equal ranks the smallest."""

from __future__ import annotations

from collections.abc import Sequence

from isolora.fit import Fit
from isolora.json_types import JsonMapping
from isolora.plan.budget import Budget
from isolora.plan.curves import ONE_SIGMA
from isolora.plan.limits import Limits, allowed_tokens, best_tokens
from isolora.plan.next_runs import joined
from isolora.plan.options import Option

LARGEST_TIE = 0.005
"""Share of the loss: a law noisier than this still does not call ranks equal that lie further apart."""


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
