"""How fast and how honest the fits are: time of a bootstrap, coverage of the intervals, predictions at four times the range.

`make bench-fit` writes benchmarks/results/fit.json. The truth is known in all four: the additive law with noise for the
first two, S-shaped curves that are none of the laws, with a slope that depends on the rank, for the third, and for the fourth
accuracies that saturate, of 400 held-out rows, in studies of three bases with five points each.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record import record

from isolora import laws
from isolora.fit import fit
from isolora.table import Table

Array = NDArray[np.float64]
ADDITIVE = np.array([2.5, 60.0, 80.0, 0.4, 0.35])
SIZES = (5.5e4, 1.5e5, 4.4e5, 1e6)
RANKS = (2.0, 8.0, 32.0)
AHEAD = 4.0
HELD_OUT = 400
NARROW = 0.3
"""Width of an interval of an error between 0 and 1 beyond which a plan refuses."""


def additive(columns: Mapping[str, Array]) -> Array:
    return laws.resolve("additive").predict(ADDITIVE, columns)


def s_shaped(columns: Mapping[str, Array]) -> Array:
    """A transition over the first 10,000 tokens, then a power of the tokens whose exponent grows with the rank."""
    n, d, r = columns["n"], columns["d"], columns["r"]
    transition = 0.5 / (1 + (d / 6e3) ** 2)
    return 1.8 + 30 * n**-0.3 + 2.6 * (1 + d / 8e3) ** (-0.12 * r / (r + 1.2)) + transition


def study(
    loss_of: Callable[[Mapping[str, Array]], Array], tokens: Array, ranks: tuple[float, ...], noise: float, seed: int
) -> Table:
    """One trajectory per size and rank; of the noise a third is the run's own (by variance)."""
    n, r, d = (grid.ravel() for grid in np.meshgrid(SIZES, ranks, tokens, indexing="ij"))
    run = np.repeat(np.arange(len(SIZES) * len(ranks)), len(tokens))
    rng = np.random.default_rng(seed)
    luck = noise * (np.sqrt(2 / 3) * rng.standard_normal(len(n)) + np.sqrt(1 / 3) * rng.standard_normal(run.max() + 1)[run])
    p = 20 * r * np.sqrt(n)
    numbers = {"rank": r, "body_parameters": n, "trainable_parameters": p, "tokens": d, "flops": (4 * n + 6 * p) * d}
    loss = loss_of({"n": n, "d": d, "p": p, "r": r}) * np.exp(luck)
    return Table({"run": run.astype(str).astype(object), **numbers, "loss": loss})


def speed(bootstrap: int) -> dict[str, Any]:
    """240 points, `bootstrap` replicates, seconds of one core, the median of five: the additive law alone, and all laws with
    their cut-offs."""
    table = study(additive, np.geomspace(8e3, 1.28e5, 10), (1, 2, 4, 8, 16, 32), 0.003, seed=0)
    asked: dict[str, dict[str, Any]] = {"seconds": {"law": "additive", "holdout": "none"}, "seconds_all_laws": {}}
    measured: dict[str, list[float]] = {name: [] for name in asked}
    for _ in range(5):
        for name, words in asked.items():
            started = time.process_time()
            fit(table, bootstrap=bootstrap, **words)
            measured[name].append(time.process_time() - started)
    return {"points": len(table), "bootstrap": bootstrap, **{name: float(np.median(each)) for name, each in measured.items()}}


def coverage(repeats: int) -> dict[str, Any]:
    """Share of repeats in which each parameter's 95 % interval held the truth: 12 runs of 8 points, 0.35 % of noise."""
    names = laws.resolve("additive").parameters
    inside = []
    for seed in range(repeats):
        table = study(additive, np.geomspace(8e3, 9e4, 8), RANKS, 0.0035, seed)
        ends = np.array(list(fit(table, law="additive", bootstrap=400, holdout="none", seed=seed).intervals.values()))
        inside.append((ends[:, 0] <= ADDITIVE) & (ends[:, 1] >= ADDITIVE))
    share = np.mean(inside, axis=0)
    return {"repeats": repeats, "inside": dict(zip(names, map(float, share), strict=True)), "mean": float(share.mean())}


def foresight(repeats: int) -> dict[str, Any]:
    """What `auto` predicts, from S-shaped curves up to 98,000 tokens, for four times that: errors and intervals."""
    errors, inside, widths, picked = [], [], [], []
    n, r = (grid.ravel() for grid in np.meshgrid(SIZES, RANKS, indexing="ij"))
    ahead = {"n": n, "r": r, "p": 20 * r * np.sqrt(n), "d": np.full(len(n), AHEAD * 98304.0)}
    for seed in range(repeats):
        fitted = fit(study(s_shaped, 98304 / 2 ** (np.arange(10)[::-1] / 2), RANKS, 0.003, seed), bootstrap=200, seed=seed)
        measured = s_shaped(ahead) * np.exp(0.003 * np.random.default_rng(10_000 + seed).standard_normal(len(n)))
        low, high = fitted.interval(ahead)
        errors.append(np.abs(fitted.predict(ahead) / measured - 1))
        inside.append((low <= measured) & (measured <= high))
        widths.append((high - low) / measured)
        picked.append(fitted.law)
    return {
        "repeats": repeats,
        "median_error": float(np.median(errors)),
        "largest_error": float(np.max(errors)),
        "inside_95": float(np.mean(inside)),
        "median_width": float(np.median(widths)),
        "laws": {law: picked.count(law) for law in sorted(set(picked))},
    }


def saturating(rng: np.random.Generator, in_odds: bool) -> Callable[[Array, Array], Array]:
    """A true 1 - accuracy by size and tokens: an exponential fall to a floor, or a power of the odds."""
    floor, half, gain = rng.uniform(0.02, 0.15), rng.uniform(8e3, 4e4), rng.uniform(0.1, 0.35)
    power = rng.uniform(0.5, 1.2)

    def error(n: Array, d: Array) -> Array:
        size = (n / 1.5e5) ** -gain
        if in_odds:
            odds: Array = floor * size + (d / (half * size)) ** -power
            return odds / (1 + odds)
        return np.minimum(floor * size + 0.5 * np.exp(-((d / (half * size)) ** 0.8)), 0.9)

    return error


def scores(studies: int) -> dict[str, Any]:
    """Small studies of an accuracy, asked at 4 and 10 x their tokens; narrow: those that a plan may recommend by."""
    rows = []
    for seed in range(studies):
        rng = np.random.default_rng(seed)
        error = saturating(rng, in_odds=seed % 2 == 1)
        n, d = (grid.ravel() for grid in np.meshgrid(SIZES[:3], np.geomspace(5e3, 4e4, 5), indexing="ij"))
        measured = rng.binomial(HELD_OUT, error(n, d)) / HELD_OUT
        names = n.astype(str).astype(object)
        numbers = {"body_parameters": n, "trainable_parameters": 160 * np.sqrt(n), "tokens": d, "flops": 6 * n * d}
        table = Table({"run": names, **numbers, "loss": np.ones(len(n)), "accuracy": 1 - measured})
        fitted = fit(table, target="accuracy", bootstrap=200, seed=seed)
        size, tokens = np.repeat(SIZES[1:3], 2), np.tile([1.6e5, 4e5], 2)
        low, high = fitted.interval({"n": size, "p": 160 * np.sqrt(size), "d": tokens, "c": 6 * size * tokens})
        ahead = rng.binomial(HELD_OUT, error(size, tokens)) / HELD_OUT
        rows += list(zip(low <= ahead, ahead <= high, high - low, strict=True))
    above, below, width = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    inside, narrow = above * below, width <= NARROW
    return {
        "studies": studies,
        "inside_95": float(inside.mean()),
        "worse_than_interval": float(1 - below.mean()),
        "median_width": float(np.median(width)),
        "narrow": float(narrow.mean()),
        "inside_95_where_narrow": float(inside[narrow].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    measured = {"speed": speed(1000), "coverage": coverage(repeats), "foresight": foresight(max(repeats // 5, 1))}
    measured["scores"] = scores(max(repeats // 5, 1))
    print(json.dumps(measured, indent=1))
    record("fit", measured)


if __name__ == "__main__":
    main()
