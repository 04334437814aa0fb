"""What a report tells: the points, the law fitted to them, what it recommends and whether that held."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from isolora.fit import Fit, best_learning_rates
from isolora.report.palette import SIZE_RAMP, ramp
from isolora.report.trajectories import VERIFY_STAGE, Choice, Trajectory, choices, models, ranks, trajectories
from isolora.table import Table

if TYPE_CHECKING:
    from isolora.plan import Recommendation


@dataclass(frozen=True)
class Verification:
    """The recommendation, trained: predicted and measured loss in nats per token, the 95 % interval, and how far out it lay."""

    predicted: float
    interval: tuple[float, float]
    measured: float
    tokens: float
    flops: float
    flops_over_largest_fitted: float

    @property
    def relative_error(self) -> float:
        return abs(self.predicted - self.measured) / self.measured

    @property
    def held(self) -> bool:
        return self.interval[0] <= self.measured <= self.interval[1]


@dataclass(frozen=True)
class StudyReport:
    """Everything that goes onto the page; `runs` are the store's rows (states, reasons, environment), where there is a store."""

    title: str
    table: Table
    fit: Fit
    recommendation: Recommendation | None = None
    verification: Verification | None = None
    runs: Sequence[Mapping[str, Any]] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def curves(self) -> list[Trajectory]:
        """The study's own runs; a verification's run stays out."""
        return [run for run in self._trajectories if run.stage != VERIFY_STAGE]

    @cached_property
    def fitted(self) -> list[Trajectory]:
        """The runs that the law is about: of each (model, rank) those of the best learning rate."""
        names = set(best_learning_rates(self._studied)["run"])
        return [run for run in self.curves if run.run in names]

    @cached_property
    def proof(self) -> list[Trajectory]:
        """The runs that verified the recommendation."""
        return [run for run in self._trajectories if run.stage == VERIFY_STAGE]

    @cached_property
    def choices(self) -> list[Choice]:
        return choices(self._studied)

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
    def _trajectories(self) -> list[Trajectory]:
        return trajectories(self.table)

    @cached_property
    def _studied(self) -> Table:
        if "stage" not in self.table:
            return self.table
        return self.table.where(np.asarray(self.table["stage"] != VERIFY_STAGE))
