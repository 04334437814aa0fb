"""One learning rate for each model, method and rank: the one whose runs are best where they can be compared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isolora.table import Table

_GROUP = ("model", "method", "rank", "body_parameters")
_FULL_LENGTH = 0.5
"""Share of the group's longest run that a learning rate must have been followed for to be chosen."""


def best_learning_rates(table: Table) -> Table:
    """The rows of the best learning rate of each (model, method, rank), all of its seeds.

    A law is about what a size or a rank can do, not about how badly it was tuned: most published differences between
    adapters are learning rates that suited one of them. Rates are compared by their mean loss at the largest token
    count that all of them reached; short tuning runs, under half of the longest, cannot win over a run that went on.
    """
    if "learning_rate" not in table or "tokens" not in table:
        return table
    keys = [table[name].astype(str) for name in _GROUP if name in table]
    groups = np.array(["/".join(row) for row in zip(*keys, strict=True)]) if keys else np.zeros(len(table), dtype=str)
    kept_M = np.zeros(len(table), dtype=bool)
    for group in np.unique(groups):
        members_M = groups == group
        kept_M |= members_M & (table["learning_rate"] == _best_rate(table.where(members_M)))
    return table.where(kept_M | np.isnan(table["learning_rate"]))


def _best_rate(group: Table) -> float:
    reach = {
        float(rate): _shortest_run(group.where(group["learning_rate"] == rate)) for rate in np.unique(group["learning_rate"])
    }
    longest = max(reach.values())
    full_length = [rate for rate, tokens in reach.items() if tokens >= _FULL_LENGTH * longest]
    shared = min(reach[rate] for rate in full_length)
    return min(full_length, key=lambda rate: _mean_loss(group.where(group["learning_rate"] == rate), shared))


def _shortest_run(runs: Table) -> float:
    return min(float(runs["tokens"][runs["run"] == run].max()) for run in np.unique(runs["run"]))


def _mean_loss(runs: Table, tokens: float) -> float:
    """Mean over the runs of the loss at a token count, between two points by the logarithm of tokens."""
    losses = [_loss_at(runs.where(runs["run"] == run), tokens) for run in np.unique(runs["run"])]
    return float(np.mean(losses))


def _loss_at(run: Table, tokens: float) -> float:
    order: NDArray[np.int64] = np.argsort(run["tokens"])
    return float(np.interp(np.log1p(tokens), np.log1p(run["tokens"][order]), run["loss"][order]))
