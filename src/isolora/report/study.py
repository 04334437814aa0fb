"""What a report tells: the points, the law fitted to them, what it recommends and whether that held."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from isolora.errors import TableError
from isolora.fit import Fit, best_learning_rates, studied
from isolora.plan import Option, Recommendation, options
from isolora.report.palette import SIZE_RAMP, ramp
from isolora.report.source import Search
from isolora.report.trajectories import Choice, Key, Trajectory, choices, models, ranks, trajectories
from isolora.table import Table

VERIFICATION = "verify"
"""The stage of a run that proves a recommendation."""


class Verified(Protocol):
    """The recommendation, trained: losses in nats per token, the 95 % interval, and how far out the run lay."""

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
    """Everything that goes onto the page; `runs` are the store's rows (states, reasons, environment), where there is a store."""

    title: str
    table: Table
    fit: Fit
    recommendation: Recommendation | None = None
    verification: Verified | None = None
    runs: Sequence[Mapping[str, Any]] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    search: Search | None = None

    @cached_property
    def curves(self) -> list[Trajectory]:
        """The study's own runs, trials of learning rates among them; a verification's run stays out."""
        return [run for run in trajectories(self.table) if run.stage != VERIFICATION]

    @cached_property
    def fitted(self) -> list[Trajectory]:
        """The runs that the law is about: of each choice those of the best learning rate."""
        names = set(best_learning_rates(self._studied)["run"])
        return [run for run in self.curves if run.run in names]

    @cached_property
    def proof(self) -> list[Trajectory]:
        """The runs that verified the recommendation."""
        return [run for run in trajectories(self.table) if run.stage == VERIFICATION]

    @cached_property
    def choices(self) -> list[Choice]:
        return choices(self._studied)

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
        return models(self._studied)

    @cached_property
    def ranks(self) -> list[int | None]:
        return ranks(self.curves)

    @cached_property
    def colours(self) -> Mapping[str, str]:
        return dict(zip(self.models, ramp(SIZE_RAMP, len(self.models)), strict=True))

    @cached_property
    def recommended(self) -> Choice | None:
        """The choice that the recommendation names."""
        if self.recommendation is None:
            return None
        key = key_of(self.recommendation)
        return next((choice for choice in self.choices if choice.key == key), None)

    @cached_property
    def largest_flops(self) -> float:
        """Training FLOPs of the largest run that the law has seen."""
        return float(max(run.flops[-1] for run in trajectories(self._studied)))

    @cached_property
    def places(self) -> Mapping[str, Any]:
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
        return studied(self.table)


def key_of(plan: Recommendation) -> Key:
    return plan.model, str(plan.method["name"]), plan.method.get("rank") or None
