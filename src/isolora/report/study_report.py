"""What a report tells: the points, the law fitted to them, what it recommends, whether that held. Only points must be there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from isolora.cost.accelerators import HERE, Place
from isolora.errors import TableError
from isolora.fit import Fit, best_learning_rates, studied
from isolora.fit.target import ERROR_OF
from isolora.json_types import JsonMapping, JsonObject
from isolora.plan import Budget, Limits, Option, Recommendation, options
from isolora.report import palette
from isolora.report.cells import Cell, cells
from isolora.report.source import Search
from isolora.report.trajectories import Choice, Key, Trajectory, choices, models, ranks, trained, trajectories, variants
from isolora.table import VERIFY, Table

"""The stage of a run that proves a recommendation."""


class Verified(Protocol):
    """The recommendation, trained: values of the page's target, the 95 % interval, and how far out the run lay."""

    @property
    def predicted(self) -> float: ...
    @property
    def interval(self) -> tuple[float, float]: ...
    @property
    def measured(self) -> float: ...
    @property
    def flops(self) -> float: ...
    @property
    def flops_over_largest_fitted(self) -> float: ...
    @property
    def relative_error(self) -> float: ...


@dataclass(frozen=True)
class StudyReport:
    """Everything that goes onto the page. `table` holds the target in its column `loss`; `runs` are the store's rows (states,
    reasons, environment), where there is a store. `no_law` says why there is no fit, `no_advice` why nothing is recommended,
    and `measure_next` what to measure next; `budget_words` says where a recommendation's budget comes from; `budget` and
    `limits` are what was asked for, `place` where, and `precision` what runs on an accelerator compute in.
    """

    title: str
    table: Table
    fit: Fit | None = None
    recommendation: Recommendation | None = None
    verification: Verified | None = None
    runs: Sequence[JsonMapping] = ()
    environment: JsonMapping = field(default_factory=dict)
    search: Search | None = None
    no_law: str = ""
    no_advice: tuple[str, ...] = ()
    measure_next: tuple[JsonObject, ...] = ()
    budget_words: str = ""
    target: str = "loss"
    budget: Budget | None = None
    limits: Limits = field(default_factory=Limits)
    place: Place = HERE
    precision: str = "bfloat16"

    @property
    def measured_name(self) -> str:
        """What texts call the target: the score where the law is of 1 - score."""
        return self.target.removeprefix(ERROR_OF)

    def told(self, *values: float) -> tuple[float, ...]:
        """Values of the target as a person reads them, a score in place of its error: one, then the ends of its interval."""
        if self.measured_name == self.target:
            return values
        first, *ends = (1 - value for value in values)
        return first, *sorted(ends)

    @cached_property
    def measure(self) -> str:
        """What the figures call the loss: an axis title with its unit."""
        if self.target != "loss":
            return f"{self.target}, held out"
        tasks = set(map(str, self.table["task"])) if "task" in self.table else set()
        return "held-out loss, nats" if any("classification" in task for task in tasks) else "held-out loss, nats per token"

    @cached_property
    def curves(self) -> list[Trajectory]:
        """The study's own runs, trials of learning rates among them; a verification's run stays out."""
        return [run for run in trajectories(self.table) if run.stage != VERIFY]

    @cached_property
    def fitted(self) -> list[Trajectory]:
        """The runs that the law is about: of each choice those of the best learning rate."""
        table = trained(self._studied)
        told_apart = [f"{one}{other}" for one, other in zip(_methods(table), variants(table), strict=True)]
        table = Table({**table.columns, "method": np.array(told_apart, dtype=object)})
        names = set(best_learning_rates(table)["run"])
        return [run for run in self.curves if run.run in names]

    @cached_property
    def proof(self) -> list[Trajectory]:
        """The runs that verified the recommendation."""
        if "stage" not in self.table or VERIFY not in set(self.table["stage"]):
            return []
        return [run for run in trajectories(self.table) if run.stage == VERIFY]

    @cached_property
    def cells(self) -> list[Cell]:
        """Base models with a method and its settings, best loss first."""
        return cells(self.curves, self.fitted, self.runs)

    @cached_property
    def families(self) -> list[str]:
        """Methods with what tells their settings apart, in the order of their best cell."""
        return list(dict.fromkeys(cell.family for cell in self.cells))

    def called(self, found: Cell | Trajectory) -> str:
        """A run's or cell's name on the page; LoRA is named only beside other methods."""
        return f"{found.model}, {found.adapter}" if len(self.families) > 1 else found.name

    def look(self, found: Cell | Trajectory) -> tuple[str, str]:
        """Colour and symbol: of the method where one base model was given several, else of the base model."""
        place = self.families.index(found.family) if found.family in self.families else 0
        if len(self.families) < 2:
            return self.colours[found.model], "circle"
        return palette.group(place) if len(self.models) == 1 else self.colours[found.model], palette.marker_symbol(place)

    @cached_property
    def choices(self) -> list[Choice]:
        """Those that have a run of their own; rows of one run may name several ranks or methods, in a stranger's table."""
        drawn = {curve.key for curve in self.curves}
        return [choice for choice in choices(self._studied) if choice.key in drawn]

    @cached_property
    def options(self) -> list[Option]:
        """What a plan can choose from; empty for a table without names, sizes or FLOPs."""
        try:
            return options(self.table)
        except TableError:
            return []

    @cached_property
    def models(self) -> list[str]:
        """Base models, smallest first."""
        return models(self.table)

    @cached_property
    def ranks(self) -> list[int | None]:
        return ranks(self.curves)

    @cached_property
    def colours(self) -> Mapping[str, str]:
        """Role of each base model's colour, also of one that only the verification used."""
        return {model: palette.size(index) for index, model in enumerate(self.models)}

    @cached_property
    def recommended(self) -> Choice | None:
        """The choice that the recommendation names."""
        if self.recommendation is None:
            return None
        key = key_of(self.recommendation)
        return next((choice for choice in self.choices if choice.key == key), None)

    @cached_property
    def largest_flops(self) -> float:
        """Training FLOPs of the largest run that was not a verification."""
        return float(max(run.flops[-1] for run in self.curves))

    @cached_property
    def cut(self) -> float:
        """Tokens from which on the law holds; 0 without a law."""
        return self.fit.cut if self.fit else 0.0

    @cached_property
    def places(self) -> JsonMapping:
        """Versions, commit, device and threads: as given, else those of the first run that noted them."""
        noted = (json.loads(run["environment"]) for run in self.runs if run.get("environment"))
        return self.environment or next((place for place in noted if place), {})

    @cached_property
    def seconds(self) -> Mapping[str, float]:
        """Training seconds of each run at its last evaluation; empty for a table that has none."""
        if "seconds" not in self.table:
            return {}
        rows = sorted(zip(self.table["seconds"], self.table["run"], strict=True))
        return {run: float(seconds) for seconds, run in rows if np.isfinite(seconds)}

    @cached_property
    def _studied(self) -> Table:
        rows = studied(self.table)
        return rows if len(rows) else self.table


def _methods(table: Table) -> list[str]:
    return list(map(str, table["method"])) if "method" in table else [""] * len(table)


def key_of(plan: Recommendation) -> Key:
    return plan.model, str(plan.method["name"]), plan.method.get("rank") or None
