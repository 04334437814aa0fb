"""Early exit for grids (`study.stop_early`): a cell that the study's own law no longer takes for a possible choice is ended.

A cell is a base with a method and a rank. After every evaluation of a stack the law is fitted to all points of the study so far.
A cell ends where the lower end of its 95 % interval lies above the upper end of another one's, both at the study's largest budget
and at four times as much, for which `verify` plans: a large base may be behind on small budgets alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from isolora.config import RunConfig, content_hash
from isolora.errors import UserError
from isolora.fit import Fit, fit, studied
from isolora.json_types import JsonObject
from isolora.plan import Budget
from isolora.plan.budget import DEFAULT_BUDGET
from isolora.plan.limits import kept_examples
from isolora.plan.options import Option, options
from isolora.runs.document_loader import RunDocuments
from isolora.store import RUNNING, Point, Store
from isolora.study.design import Job
from isolora.table import read
from isolora.training.refill import Queue

FEWEST_POINTS = 4
"""Of a run, before it may end early: what it leaves behind still tells how its losses fall."""
BOOTSTRAP = 200
"""Replicates behind an interval: 0.3 to 1.4 processor seconds a fit of 50 to 80 points, where 1,000 take 2."""

Cell = tuple[str, str, int]
"""(base, method, rank)."""


@dataclass(frozen=True)
class GridPruner:
    """Gives each stack of a grid what ends its runs early. largest_flops: of the run that takes most of them; width: of stacks
    whose places go to the next runs of a longer job as they become free, None where jobs are as wide as their stacks."""

    store: Store
    largest_flops: float
    width: int | None = None

    def __call__(self, job: Job) -> CellPruner | GridQueue:
        cells = CellPruner(self.store, self.largest_flops)
        return cells if self.width is None else GridQueue(cells, job, self.width)


class GridQueue(Queue):
    """The runs of a job in their order, so many at a time."""

    def __init__(self, cells: CellPruner, job: Job, width: int) -> None:
        documents = RunDocuments.load(job[0])
        self.runs = {documents.identity(run): run for run in job}
        super().__init__(content_hash(list(self.runs)))
        self.cells, self.width = cells, width

    def __call__(self, point: Point) -> str:
        return self.cells(point)

    def next_runs(self, ended: Mapping[str, str], running: Collection[str]) -> dict[str, RunConfig]:
        store = self.cells.store
        taken = {*running, *store.ended()}
        waiting = [name for name in self.runs if name not in taken]
        joining = {name: self.runs[name] for name in waiting[: self.width - len(running)]}
        store.set_state(joining, RUNNING)
        return joining


@dataclass
class CellPruner:
    """Says why a run ends here; nothing where it goes on. Fits once for all runs that are measured together."""

    store: Store
    largest_flops: float
    seen: int = -1
    points: Mapping[str, Sequence[JsonObject]] = field(default_factory=dict)
    reasons: Mapping[Cell, str] = field(default_factory=dict)

    def __call__(self, point: Point) -> str:
        if (count := self.store.count_points()) != self.seen:
            self.seen, self.points = count, points_by_run(self.store)
            self.reasons = hopeless_cells(self.store, self.largest_flops) if self._long_enough(point) else {}
        [first, *_] = self.points[point.run]
        reason = self.reasons.get((first["model"], first["method"], int(first["rank"] or 0)), "")
        return reason if self._long_enough(point) else ""

    def _long_enough(self, point: Point) -> bool:
        return len(self.points[point.run]) >= FEWEST_POINTS


def points_by_run(store: Store) -> dict[str, list[JsonObject]]:
    """Every run's points so far."""
    found: dict[str, list[JsonObject]] = {}
    for row in store.points():
        found.setdefault(row["run"], []).append(row)
    return found


def hopeless_cells(store: Store, largest_flops: float) -> dict[Cell, str]:
    """Cells that cannot be the best, and why; none where the points carry no law yet."""
    try:
        table = studied(read(store.folder))
        found, cells = fit(table, bootstrap=BOOTSTRAP), options(table)
    except UserError:
        return {}
    at_hand, _ = kept_examples(table, None)
    near, far = (behind(found, cells, Budget(factor * largest_flops, "flops"), at_hand) for factor in (1, DEFAULT_BUDGET))
    return {cell: reason for cell, reason in near.items() if cell in far}


def behind(found: Fit, cells: Sequence[Option], budget: Budget, examples: int | None = None) -> dict[Cell, str]:
    """Cells whose interval at a budget lies above another one's, and that in words. examples: at hand; None where as many as it
    takes."""
    intervals = [(cell, *_interval(found, cell, budget, examples)) for cell in cells]
    best, _, highest = min(intervals, key=lambda row: row[2])
    return {
        (cell.model, cell.method, cell.rank): (
            f"at {budget} {cell.name} would reach {lowest:.4f} at best, and {best.name} {highest:.4f} at worst"
        )
        for cell, lowest, _ in intervals
        if lowest > highest
    }


def _interval(found: Fit, cell: Option, budget: Budget, examples: int | None) -> tuple[float, float]:
    (low,), (high,) = found.interval(cell.columns(cell.tokens(budget), cell.unique_tokens(examples)))
    return (float(low), float(high)) if math.isfinite(low) and math.isfinite(high) else (-math.inf, math.inf)
