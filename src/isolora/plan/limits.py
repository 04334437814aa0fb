"""What a plan must keep to besides its budget, and how far one option may go within it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isolora.errors import TableError, UserError
from isolora.fit import Fit
from isolora.laws import Array
from isolora.plan.budget import Budget
from isolora.plan.options import Option
from isolora.table import Table

FREE_PASSES = 4.0
"""Passes over the same data that are nearly as good as new data (Muennighoff et al. 2305.16264): the most that is planned where
no law of repeats was fitted, and the factor beyond the measured passes where one was."""
FARTHEST = 100.0
"""Largest factor beyond the tokens that an option was followed for: hold-outs never judged beyond about 60."""
_BELOW = 0.5
_GRID = 48
_ONE_PASS = 1.001
_ALL_NEW = (
    "some runs repeated their data, and no column unique_examples says how many examples there are: as many new tokens are"
    " counted on as are taken"
)


@dataclass(frozen=True)
class Limits:
    """examples: distinct ones at hand; None: nothing is said of them (see `kept_examples`), and to an option as many as it
    takes; memory_bytes; forget_at_most: nats a token lost on other texts;
    serve_tokens: tokens of inference that the budget must also pay for."""

    examples: int | None = None
    memory_bytes: float | None = None
    forget_at_most: float | None = None
    serve_tokens: float = 0.0

    def __post_init__(self) -> None:
        _demand_enough("examples", self.examples, 1)
        _demand_enough("memory_bytes", self.memory_bytes, 1)
        _demand_enough("serve_tokens", self.serve_tokens, 0)


def _demand_enough(name: str, value: float | None, least: int) -> None:
    if value is not None and not value >= least:
        raise UserError(f"{name}: {value:g} is too few (valid: {least} or more)")


def examples_at_hand(table: Table) -> int | None:
    """Training examples that the runs of a table have, known where a run has passed over all of its own: as many as any run saw;
    None elsewhere."""
    if "unique_examples" not in table or table["unique_examples"].dtype != float:
        return None
    seen_M = table["unique_examples"]
    known_M = np.isfinite(seen_M) & (seen_M >= 1)
    return int(seen_M[known_M].max()) if (known_M & _repeats(table)).any() else None


def _repeats(table: Table) -> NDArray[np.bool_]:
    """Which points lie beyond the first pass over their data, (M,)."""
    if any(name not in table or table[name].dtype != float for name in ("tokens", "unique_tokens")):
        return np.zeros(len(table), dtype=bool)
    seen_M = table["tokens"] / np.maximum(table["unique_tokens"], 1.0)
    told = "passes" in table and table["passes"].dtype == float
    passes_M: Array = np.where(np.isfinite(table["passes"]), table["passes"], seen_M) if told else seen_M
    again_M: NDArray[np.bool_] = passes_M > _ONE_PASS
    return again_M


def kept_examples(table: Table, given: float | None) -> tuple[int | None, tuple[str, ...]]:
    """(examples that a plan may count on, what is assumed of them). given: None where nothing is said of them; infinity: as many
    as it takes."""
    if given is not None:
        _demand_enough("examples", given, 1)
        return None if math.isinf(given) else int(given), ()
    if (found := examples_at_hand(table)) is None:
        return None, (_ALL_NEW,) if "unique_examples" not in table and _repeats(table).any() else ()
    return found, (f"{found:,} examples are taken to be at hand: the runs passed over no more; --examples says otherwise",)


def demand_told(priced: Sequence[Option], limits: Limits) -> None:
    """Raises TableError for a limit on something that no run of the table tells."""
    if limits.examples is not None and all(math.isnan(option.tokens_per_example) for option in priced):
        raise TableError(
            "examples: the table does not say how many tokens its examples have, so that no number of them is a limit; it needs"
            " the columns unique_tokens (u) and unique_examples"
        )
    if limits.memory_bytes is not None and all(math.isnan(option.peak_memory_bytes) for option in priced):
        raise TableError("memory: a limit on memory needs a peak_memory_bytes column in the table, in bytes")
    if limits.forget_at_most is not None and not any(option.forgetting for option in priced):
        raise TableError("a limit on forgetting needs a forgetting column in the table; the runs did not measure it")
    if limits.serve_tokens and all(math.isnan(option.serving(limits.serve_tokens, "flops")) for option in priced):
        raise TableError("serve: what inference costs follows from the weights of a base; the table needs a column of sizes (n)")


def within_memory(priced: Sequence[Option], limits: Limits) -> tuple[list[Option], Counter[str]]:
    """The options that are known to fit the memory, and how many are left out, by reason."""
    if (memory := limits.memory_bytes) is None:
        return list(priced), Counter()
    untold = sum(math.isnan(option.peak_memory_bytes) for option in priced)
    fitting = [option for option in priced if option.peak_memory_bytes <= memory]
    left = {"whose memory no run tells": untold, "which need more memory": len(priced) - untold - len(fitting)}
    return fitting, +Counter(left)


def too_little_memory(priced: Sequence[Option], limits: Limits) -> str:
    """Why no option is left, in a line."""
    least = min((each.peak_memory_bytes for each in priced if not math.isnan(each.peak_memory_bytes)), default=math.nan)
    return f"memory of {(limits.memory_bytes or 0) / 1e6:,.4g} MB fits no option; the smallest needs {least / 1e6:,.4g} MB"


def passes_limit(fit: Fit, option: Option) -> float:
    """Most passes over the same data that the fit supports for an option."""
    return FREE_PASSES * (option.largest_passes if "u" in fit.shape.demands else 1.0)


def allowed_tokens(fit: Fit, option: Option, budget: Budget, limits: Limits, smallest: float) -> tuple[float, str]:
    """Tokens that an option may be trained on, and why it is left out (empty where it is not).

    `smallest` is the table's smallest token count: half of it is the least that anything is said about. An option goes no farther
    than the evidence, and what a larger budget leaves is not spent: it would be a longer extrapolation, not a better option.
    """
    tokens = option.tokens(budget, limits.serve_tokens)
    if option.rising:
        return 0.0, "whose measured loss was rising"
    if math.isnan(tokens) or tokens <= 0:
        return 0.0, "for which the budget buys no token" if tokens <= 0 else "without a price in the table"
    if tokens < least_tokens(smallest):
        return 0.0, f"for which the budget buys less than the fewest tokens measured ({smallest:,.0f})"
    if limits.examples is not None and math.isnan(option.tokens_per_example):
        return 0.0, "whose runs do not say how many tokens an example has"
    tokens = min(tokens, most_tokens(fit, option, limits))
    if tokens < least_tokens(smallest) and limits.forget_at_most is not None:
        return 0.0, f"that forget more than {limits.forget_at_most:g} nats a token"
    return tokens, ""


def least_tokens(smallest: float) -> float:
    """The fewest tokens that anything is said about, of the fewest that were measured."""
    return _BELOW * smallest


def most_tokens(fit: Fit, option: Option, limits: Limits) -> float:
    """The most tokens that an option may be trained on, whatever the budget; 0 where it always forgets too much."""
    tokens = min(passes_limit(fit, option) * option.unique_tokens(limits.examples), farthest_tokens(option))
    return tokens if limits.forget_at_most is None else _within_forgetting(option, tokens, limits.forget_at_most)


def farthest_tokens(option: Option) -> float:
    """The most tokens that are planned for an option, whatever the budget."""
    return FARTHEST * option.largest_tokens


def best_tokens(fit: Fit, option: Option, tokens: float, smallest: float, examples: int | None) -> float:
    """Where the law predicts the lowest loss up to `tokens`: all of them, but for a law whose loss rises again with repeats."""
    unique = option.unique_tokens(examples)
    if "u" not in fit.shape.demands or tokens <= unique:
        return tokens
    grid_G = np.geomspace(max(min(unique, tokens / 2), least_tokens(smallest)), tokens, _GRID)
    places = [option.columns(float(count), unique) for count in grid_G]
    loss_G = fit.predict({name: np.array([place[name] for place in places]) for name in places[0]})
    return float(grid_G[int(np.argmin(loss_G))])


def _within_forgetting(option: Option, tokens: float, limit: float) -> float:
    """The most tokens, up to so many, at which no more is forgotten; 0 where more is at all of them."""
    if not option.forgotten(tokens) > limit:
        return tokens
    above = tokens
    for below in [at for at, _ in reversed(option.forgetting) if at < tokens]:
        lost = option.forgotten(below)
        if lost <= limit:  # between two points forgetting is a line in log tokens
            share = (limit - lost) / (option.forgotten(above) - lost)
            return float(below * (above / below) ** share)
        above = below
    return 0.0
