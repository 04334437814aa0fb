"""What each option comes to for a budget, and how one is chosen of several: prudently, and of equal ranks the smallest.

And which base when: the budgets at which another base takes over, and the size that the law itself would take, N*(C) and D*(C).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from isolora.fit import Fit
from isolora.json_types import JsonMapping, JsonObject
from isolora.laws import Array
from isolora.plan.budget import Budget
from isolora.plan.limits import FARTHEST, Limits, allowed_tokens, best_tokens, farthest_tokens
from isolora.plan.next_runs import joined
from isolora.plan.options import Option

ONE_SIGMA = 0.6827
"""Level of the interval whose upper end options are compared by."""
LARGEST_TIE = 0.005
"""Share of the loss: a law noisier than this still does not call ranks equal that lie further apart."""


def isoflop(fit: Fit, options: Sequence[Option], budget: float) -> dict[str, Array]:
    """One budget in FLOPs spent on each option, as far as it may go: body_parameters, rank, tokens, loss, low and high (95 %),
    prudent_loss."""
    tokens = np.array([min(option.tokens(Budget(budget, "flops")), farthest_tokens(option)) for option in options])
    rows = [option.columns(float(count)) for option, count in zip(options, tokens, strict=True)]
    columns = joined(rows)
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


def affordable(
    fit: Fit, options: Sequence[Option], limits: Limits, smallest: float, budget: Budget
) -> tuple[list[tuple[Option, float]], Counter[str]]:
    """The options that may be trained, each on as many tokens as it may, and how many are left out, by reason: all of them
    where each would go beyond the evidence."""
    runs: list[tuple[Option, float]] = []
    left: Counter[str] = Counter()
    for option in options:
        tokens, reason = allowed_tokens(fit, option, budget, limits, smallest)
        if reason:
            left[reason] += 1
        else:
            runs.append((option, best_tokens(fit, option, tokens, smallest, limits.examples)))
    if runs and all(tokens >= farthest_tokens(option) for option, tokens in runs):
        left[f"which would go more than {FARTHEST:.0f} x beyond the tokens they were followed for"] = len(runs)
        return [], left
    return runs, left


def chosen_at(fit: Fit, options: Sequence[Option], limits: Limits, smallest: float, budget: Budget) -> JsonMapping | None:
    """What a plan would choose for another budget: model, method, rank, FLOPs; None where no option may be trained."""
    runs, _ = affordable(fit, options, limits, smallest, budget)
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
    return rows[choose(rows, tie(fit))]


_BELOW, _ABOVE, _PER_DECADE = 1 / 30, 1e12, 12
"""How far below and above the budget switches are looked for, and in how many steps a factor of ten: a switch is known to within
10 % or so."""
_BEYOND_SIZES, _SIZES = 3.0, 80
"""Factor beyond the measured sizes that N* may lie at, and the points between."""
_TAILS = (0.025, 0.975)

Chosen = Callable[[Budget], JsonMapping | None]
"""What a plan chooses for a budget; None where it would choose nothing."""


def switches(chosen: Chosen, options: Sequence[Option], budget: Budget) -> list[JsonObject]:
    """Budgets from which on another base is chosen, smallest first: {"budget_flops", "model"}; `seconds` too for one in time.

    From a thirtieth of the budget up, to where no option may go farther. The budget itself is one of those tried, so that what
    is said of larger and smaller ones agrees with what is chosen for it.
    """
    if len({option.model for option in options}) < 2:
        return []
    largest = max((option.largest_tokens * option.price(budget.unit) for option in options), default=np.nan)
    most = min(max(FARTHEST * float(np.nan_to_num(largest)), budget.whole), _ABOVE * budget.whole)
    first, last = (round(_PER_DECADE * np.log10(factor)) for factor in (_BELOW, most / budget.whole))
    found: list[JsonObject] = []
    before: str | None = None
    for step in range(first, last + 1):
        row = chosen(budget.scaled(10 ** (step / _PER_DECADE)))
        if row is None:
            continue
        if before is not None and row["model"] != before:
            between = budget.whole * 10 ** ((step - 0.5) / _PER_DECADE)
            spent = {"budget_flops": between} if budget.unit == "flops" else {"budget_flops": row["flops"], "seconds": between}
            found.append({"model": row["model"], **spent})
        before = row["model"]
    return found


def optimum(fit: Fit, options: Sequence[Option], choice: Option, budget: Budget, limits: Limits) -> JsonObject | None:
    """The size N* and the tokens D* that the law would spend the budget on, with 95 % intervals over the draws.

    Prices and trained weights of sizes between the measured ones lie on a power of the size. None where the law does not read
    the size, or fewer than three were measured with this method and rank.
    """
    alike = [o for o in options if (o.method, o.rank) == (choice.method, choice.rank) and np.isfinite(o.body_parameters)]
    alike = [option for option in alike if fit.families.get(option.model) == fit.families.get(choice.model)]
    sizes = np.array([option.body_parameters for option in alike])
    if "n" not in fit.shape.demands or len(np.unique(sizes)) < 3 or limits.serve_tokens:
        return None
    size_M = np.geomspace(sizes.min() / _BEYOND_SIZES, sizes.max() * _BEYOND_SIZES, _SIZES)
    token_M = budget.amount / _power(sizes, [option.price(budget.unit) for option in alike], size_M)
    rows = [choice.columns(float(tokens), choice.unique_tokens(limits.examples)) for tokens in token_M]
    columns = {**joined(rows), "n": size_M, "c": token_M * _power(sizes, [o.flops_per_token for o in alike], size_M)}
    if "p" in columns:
        columns["p"] = _power(sizes, [option.trainable_parameters for option in alike], size_M)
    if not all(np.isfinite(values).all() for values in columns.values() if values.dtype == float):
        return None
    best = int(fit.predict(columns).argmin())
    best_K = fit.sampled(columns).argmin(axis=1)
    return {
        "body_parameters": float(size_M[best]),
        "body_parameters_interval": [float(end) for end in np.quantile(size_M[best_K], _TAILS)],
        "tokens": float(token_M[best]),
        "tokens_interval": [float(end) for end in np.quantile(token_M[best_K], _TAILS)],
        "at_edge": best in (0, len(size_M) - 1),
    }


def _power(sizes: Array, values: Sequence[float], wanted_M: Array) -> Array:
    """A power law of the size through measured values."""
    slope, start = np.polyfit(np.log(sizes), np.log(values), 1)
    fitted: Array = np.exp(start + slope * np.log(wanted_M))
    return fitted


def sizes_words(model: str, found: Sequence[JsonMapping], best: JsonMapping | None, budget: Budget) -> Iterator[str]:
    """Sentences about switches and the optimum. budget: of the recommendation, which need not spend it."""
    amount = "budget_flops" if budget.unit == "flops" else "seconds"
    later = [switch for switch in found if switch[amount] > budget.whole]
    yield from (f"  from {switch['budget_flops']:.2g} FLOPs on, {switch['model']} would win" for switch in later[:2])
    earlier = [switch for switch in found if switch[amount] <= budget.whole]
    if earlier and earlier[-1]["model"] == model:
        yield f"  {model} wins from {earlier[-1]['budget_flops']:.2g} FLOPs on"
    if best is not None:
        (small, large), (few, many) = best["body_parameters_interval"], best["tokens_interval"]
        if best["at_edge"]:
            yield f"  of all sizes the law would take {best['body_parameters']:.2g} weights or beyond, farther than measured"
            return
        yield (
            f"  of all sizes the law would take {best['body_parameters']:.2g} weights [{small:.2g}, {large:.2g}]"
            f" on {best['tokens']:.2g} tokens [{few:.2g}, {many:.2g}]"
        )
