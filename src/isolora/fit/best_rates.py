"""One learning rate for each model, method and rank, and one choice of whatever other settings a study varies: the one whose
runs are best where they can be compared. A study over numbers of training examples chooses for each of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isolora.fit.fit_points import by_group
from isolora.json_types import JsonMapping
from isolora.laws import Array
from isolora.table import SETTINGS, Table, fields_in

Tried = tuple[float, str]
"""A learning rate, and the words for the other settings that differ between runs."""

_GROUP = ("model", "method", "rank", "body_parameters")
_GRID_STAGES = ("grid", "tune")
_FULL_LENGTH = 0.5
"""Share of the group's longest run that a learning rate must have been followed for to be chosen."""


def best_learning_rates(table: Table) -> Table:
    """The rows of the best learning rate, and of the best other settings, of each (model, method, rank), all of its seeds.

    A law is about what a size or a rank can do, not about how badly it was tuned: most published differences between
    adapters are learning rates that suited one of them. Rates are compared by their mean loss at the largest token
    count that all of them reached; short tuning runs, under half of the longest, cannot win over a run that went on.
    """
    if "learning_rate" not in table or "tokens" not in table:
        return table
    kept_M = ~_names_a_rate(table)
    for rate, alike_M in _best_of_groups(table):
        kept_M |= alike_M & (table["learning_rate"] == rate)
    return table.where(kept_M)


@dataclass(frozen=True)
class RateEffect:
    """What another learning rate than the best one costs, for places that name one: `slope` x + `curvature` x^2 in log loss,
    x the logarithm of the rate over the best one, `spread` the standard deviation about that.

    `compared` are the smallest and the largest x that were compared: beyond them the cost is a guess. `sizes` and `rates`
    are the studied sizes with their best rates, smallest size first; between and beyond them the best rate follows a power
    of the size.
    """

    slope: float
    curvature: float
    spread: float
    compared: tuple[float, float]
    sizes: tuple[float, ...]
    rates: tuple[float, ...]

    def cost(self, rate_M: Array, size_M: Array) -> tuple[Array, Array]:
        """Log loss added at those rates, and its standard deviation, (M,) each; zero where no rate is named."""
        x_M = np.nan_to_num(np.log(rate_M / self.best(size_M)))
        cost_M = np.maximum(self.slope * x_M + self.curvature * x_M**2, 0.0)
        reach_M = np.maximum(np.where(x_M < 0, -self.compared[0], self.compared[1]), _STEP)
        beyond_M = np.maximum(np.abs(x_M) / reach_M, 1.0) ** 2
        return cost_M, self.spread * np.minimum(np.abs(x_M) / _STEP, 1.0) * beyond_M

    def best(self, size_M: Array) -> Array:
        """The best rate of each size."""
        if len(self.sizes) < 3:
            return np.full(len(size_M), np.exp(np.mean(np.log(self.rates))))
        fitted_M = np.exp(np.polyval(np.polyfit(np.log(self.sizes), np.log(self.rates), 1), np.log(size_M)))
        known = dict(zip(self.sizes, self.rates, strict=True))
        return np.array([known.get(float(size), float(rate)) for size, rate in zip(size_M, fitted_M, strict=True)])


def rate_cost(effect: RateEffect | None, named: JsonMapping, columns: Mapping[str, Array]) -> tuple[Array, Array]:
    """(log loss that the column `learning_rate` adds, its standard deviation), (M,) each; zeros where no rate is known."""
    nothing_M = np.zeros_like(next(iter(columns.values())))
    if effect is None or "learning_rate" not in named:
        return nothing_M, nothing_M
    rate_M = np.broadcast_to(np.asarray(named["learning_rate"], dtype=float), nothing_M.shape)
    return effect.cost(rate_M, columns.get("n", np.ones_like(nothing_M)))


_FEWEST_COMPARISONS = 6
_STEP = float(np.log(2))
"""Log distance from the best rate from which on what a rate costs scatters in full; the scatter does not grow from there on
(1.7 % of misfitting's loss at a factor of 2, 1.7 % at 4 to 5), but beyond the rates that were compared it grows as a parabola."""


def rate_effect(table: Table) -> RateEffect | None:
    """What the points at other than the best rates tell; None where there are too few, or one rate only."""
    if "learning_rate" not in table or "tokens" not in table:
        return None
    best: dict[float, float] = {}
    pairs: list[tuple[float, float, float]] = []
    for rate, alike_M in _best_of_groups(table):
        group = table.where(alike_M)
        size = float(group["body_parameters"][0]) if "body_parameters" in group else 1.0
        if np.unique(group["learning_rate"]).size > 1:
            best[size] = rate
        pairs += _comparisons(group, rate)
    if len(pairs) < _FEWEST_COMPARISONS:
        return None
    x_P, excess_P, tokens_P = np.array(pairs).T
    weight_P = tokens_P / tokens_P.max()
    slope, curvature = _quadratic(x_P, excess_P, weight_P)
    missed_P = excess_P - slope * x_P - curvature * x_P**2
    spread = float(np.sqrt((weight_P * missed_P**2).sum() / weight_P.sum()))
    compared = (float(min(x_P.min(), 0.0)), float(max(x_P.max(), 0.0)))
    return RateEffect(slope, curvature, spread, compared, tuple(sorted(best)), tuple(best[size] for size in sorted(best)))


def rates_at_the_edge(table: Table, trials: Table | None = None) -> list[str]:
    """Groups whose best rate is the smallest or the largest that was tried, of two or more. trials: short runs that decided the
    rates; every group of them tries the same, of which some may have diverged."""
    found = []
    for part in (trials, table):
        if part is None or "learning_rate" not in part or "tokens" not in part:
            continue
        examples_M = _grid_examples(part)
        for rate, alike_M in _best_of_groups(part):
            tried = np.unique((part if part is trials else part.where(alike_M))["learning_rate"])
            if tried.size > 1 and rate in (tried[0], tried[-1]):
                found.append(", ".join(filter(None, (_group_words(part.where(alike_M)), str(examples_M[alike_M][0])))))
    return found


def about_settings(table: Table) -> str:
    """What was made of settings in which runs of one group differ; empty where none do."""
    words = set(map(str, _settings(table)))
    names = dict.fromkeys(name for each in words for name in fields_in(each)) if len(words) > 1 else {}
    if not names:
        return ""
    return f"runs differ in {', '.join(names)}: of each base, method and rank the best of what was tried is fitted"


def _group_words(group: Table) -> str:
    """Base, method and rank of a group, those that the table names."""
    names = [str(group[name][0]) for name in ("model", "method") if name in group]
    ranked = "rank" in group and np.isfinite(group["rank"][0])
    return ", ".join([*filter(None, names), *([f"rank {group['rank'][0]:g}"] if ranked else [])]) or "the table"


def _quadratic(x_P: NDArray[np.float64], excess_P: NDArray[np.float64], weight_P: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and curvature through zero at the best rate; without a curve upward a slope alone would say that a better one
    was left.

    Comparisons weigh as their tokens: what a rate costs scatters less the longer the runs (of misfitting's 143 comparisons
    2.0 % in the shorter half, 1.2 % in the longest fifth), and longer ones are what a prediction is for.
    """
    design_P2 = np.stack([x_P, x_P**2], axis=1)
    root_P = np.sqrt(weight_P)
    slope, curvature = np.linalg.lstsq(design_P2 * root_P[:, None], excess_P * root_P, rcond=None)[0]
    if curvature <= 0:
        return 0.0, float(max((weight_P * excess_P * x_P**2).sum() / (weight_P * x_P**4).sum(), 0.0))
    return float(slope), float(curvature)


def _comparisons(group: Table, rate: float) -> Iterator[tuple[float, float, float]]:
    """(log rate over the best, log loss over that of the best at the same tokens, tokens) of every other point within its
    range."""
    reference = group.where(group["learning_rate"] == rate)
    order = np.argsort(reference["tokens"], kind="stable")
    tokens, losses = reference["tokens"][order], reference["loss"][order]
    others = group.where(group["learning_rate"] != rate)
    for other, at, loss in zip(others["learning_rate"], others["tokens"], others["loss"], strict=True):
        if tokens[0] <= at <= tokens[-1]:
            level = float(np.interp(np.log1p(at), np.log1p(tokens), np.log(losses)))
            yield float(np.log(other / rate)), float(np.log(loss)) - level, float(at)


def _groups(table: Table) -> Iterator[NDArray[Any]]:
    """Masks of the points of each (model, method, rank, size, number of examples) that names learning rates."""
    keys = [*(table[name].astype(str) for name in _GROUP if name in table), _grid_examples(table)]
    groups = np.array(["/".join(row) for row in zip(*keys, strict=True)])
    named_M = _names_a_rate(table)
    for group in np.unique(groups[named_M]):
        yield (groups == group) & named_M


def _grid_examples(table: Table) -> NDArray[np.str_]:
    """How many training examples the grid of a study gave each run, in words, (M,); empty ones where it varies no such number,
    and where a search did: it tries a rate once for each."""
    words_M = np.full(len(table), "", dtype=object)
    if "stage" in table and "config" in table:
        of_grid_M = np.isin(table["stage"].astype(str), _GRID_STAGES)
        words = {config: _examples_words(config) for config in set(map(str, table["config"][of_grid_M]))}
        words_M[of_grid_M] = [words[str(config)] for config in table["config"][of_grid_M]]
    return words_M.astype(str) if len(set(words_M)) > 1 else np.full(len(table), "", dtype=str)


def _examples_words(config: str) -> str:
    try:
        wanted = json.loads(config)["data"].get("train_examples")
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    return "all examples" if wanted is None else f"{wanted} examples"


def _names_a_rate(table: Table) -> NDArray[np.bool_]:
    """Points of a rate that a training can have; 0, infinite and absent ones are compared with nothing."""
    named_M: NDArray[np.bool_] = np.isfinite(table["learning_rate"]) & (table["learning_rate"] > 0)
    return named_M


def _best_of_groups(table: Table) -> Iterator[tuple[float, NDArray[np.bool_]]]:
    """Of each group its best rate, and the mask of its points with the best settings."""
    settings_M = _settings(table)
    for members_M in _groups(table):
        rate, settings = _best(table.where(members_M))
        yield rate, members_M & (settings_M == settings)


def _best(group: Table) -> Tried:
    every = sorted(set(zip(map(float, group["learning_rate"]), map(str, _settings(group)), strict=True)))
    if len(every) == 1:
        return every[0]
    settings_M = _settings(group)
    runs = {(rate, words): group.where((group["learning_rate"] == rate) & (settings_M == words)) for rate, words in every}
    reach = {tried: _shortest_run(of_tried) for tried, of_tried in runs.items()}
    longest = max(reach.values())
    full_length = [tried for tried, tokens in reach.items() if tokens >= _FULL_LENGTH * longest]
    shared = min(reach[tried] for tried in full_length)
    return min(full_length, key=lambda tried: _mean_loss(runs[tried], shared))


def _settings(table: Table) -> NDArray[np.str_]:
    """Words for what differs between runs besides, (M,); empty ones where nothing does."""
    return table[SETTINGS].astype(str) if SETTINGS in table else np.full(len(table), "", dtype=str)


def _shortest_run(runs: Table) -> float:
    return min(float(tokens[-1]) for tokens, _ in _by_run(runs))


def _mean_loss(runs: Table, tokens: float) -> float:
    """Mean over the runs of the loss at a token count, between two points by the logarithm of tokens."""
    losses = [float(np.interp(np.log1p(tokens), np.log1p(seen), measured)) for seen, measured in _by_run(runs)]
    return float(np.mean(losses))


def _by_run(runs: Table) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """(tokens, losses) of each run, fewest tokens first."""
    _, numbers = np.unique(runs["run"], return_inverse=True)
    return ((runs["tokens"][rows], runs["loss"][rows]) for rows in by_group(numbers, runs["tokens"]))
