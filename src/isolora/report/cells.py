"""Cells of a study: base model, method with its settings, rank. Each with the learning rates tried and how it ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isolora.json_types import JsonMapping
from isolora.report.trajectories import Trajectory

Name = tuple[str, str, str, int | None]
"""Base model, method, variant, rank."""

_SAME_LENGTH = 0.05
"""Natural logarithm of tokens: runs that ended within a batch of each other are of one length."""


@dataclass(frozen=True)
class TriedRate:
    """A learning rate and the mean loss of its runs (one a seed), all of the same length in tokens."""

    rate: float
    loss: float
    runs: int


@dataclass(frozen=True)
class Cell:
    """`tried` in order of rate, where there are several; `ends` are the runs that stand for the cell, one a seed."""

    name: str
    model: str
    adapter: str
    family: str
    tried: tuple[TriedRate, ...]
    diverged: tuple[float, ...]
    ends: tuple[Trajectory, ...]

    @property
    def loss(self) -> float:
        """Mean over the seeds at their last evaluation."""
        return float(np.mean([run.loss[-1] for run in self.ends]))

    @property
    def spread(self) -> float:
        """Half the range over the seeds; NaN for one run."""
        losses = [float(run.loss[-1]) for run in self.ends]
        return (max(losses) - min(losses)) / 2 if len(losses) > 1 else float("nan")

    @property
    def best(self) -> TriedRate | None:
        return min(self.tried, key=lambda tried: tried.loss) if self.tried else None

    @property
    def edge(self) -> str:
        """'lowest' or 'highest' where the best rate is the last one tried on that side: a better one may lie beyond."""
        if self.best is None or len(self.tried) < 2:
            return ""
        if self.best.rate == self.tried[0].rate:
            return "lowest"
        beyond = [rate for rate in self.diverged if rate > self.best.rate]
        return "highest" if self.best.rate == self.tried[-1].rate and not beyond else ""


def cells(curves: Sequence[Trajectory], fitted: Sequence[Trajectory], stored: Sequence[JsonMapping] = ()) -> list[Cell]:
    """Every cell of the study, best loss first. `fitted` are the runs at the best rate, `stored` the store's rows of runs."""
    by_name: dict[Name, list[Trajectory]] = {}
    for run in curves:
        by_name.setdefault(_name(run), []).append(run)
    chosen = {run.run for run in fitted}
    found = [_cell(runs, [run for run in runs if run.run in chosen], stored) for runs in by_name.values()]
    return sorted((cell for cell in found if cell.ends), key=lambda cell: cell.loss)


def _cell(runs: list[Trajectory], fitted: list[Trajectory], stored: Sequence[JsonMapping]) -> Cell:
    first = runs[0]
    ends = _longest(fitted)
    return Cell(first.name, first.model, first.adapter, first.family, _tried(runs), _diverged(first, stored), tuple(ends))


def _name(run: Trajectory) -> Name:
    return run.model, run.method, run.variant, run.rank


def _longest(runs: list[Trajectory]) -> list[Trajectory]:
    most = max((float(run.tokens[-1]) for run in runs), default=0.0)
    return [run for run in runs if np.log(most / run.tokens[-1]) <= _SAME_LENGTH]


def _tried(runs: list[Trajectory]) -> tuple[TriedRate, ...]:
    """The rates of the length at which most were tried: trials are often shorter than what follows them."""
    lengths = np.log([float(run.tokens[-1]) for run in runs])
    alike = [np.flatnonzero(np.abs(lengths - length) <= _SAME_LENGTH) for length in dict.fromkeys(lengths.tolist())]
    groups = [[runs[place] for place in places] for places in alike]
    widest = max(groups, key=lambda group: (len({run.learning_rate for run in group}), group[0].tokens[-1]))
    rates = Counter(run.learning_rate for run in widest if np.isfinite(run.learning_rate))
    if len(rates) < 2:
        return ()
    means = {rate: float(np.mean([run.loss[-1] for run in widest if run.learning_rate == rate])) for rate in rates}
    return tuple(TriedRate(rate, means[rate], rates[rate]) for rate in sorted(rates))


def _diverged(first: Trajectory, stored: Sequence[JsonMapping]) -> tuple[float, ...]:
    """Rates at which a run of this model, method and rank blew up."""
    key = first.model, first.method, first.rank
    lost = [row for row in stored if row.get("state") == "DIVERGED" and (row["model"], row["method"], row.get("rank")) == key]
    return tuple(sorted({float(row["learning_rate"]) for row in lost if row.get("learning_rate") is not None}))
