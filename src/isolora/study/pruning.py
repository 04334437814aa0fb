"""Pruning by Optuna at the points of a trajectory: whether a trial's loss so far is worth the rest of its budget.

A pruner compares its stack with the trials of earlier rounds and with itself, never with stacks that are trained at the same
time: which of those is ahead is a matter of luck, and a search has to come out the same every time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from isolora.config import RunConfig, SearchConfig, TrainingConfig
from isolora.errors import ConfigError
from isolora.json_types import JsonMapping, JsonObject
from isolora.runs.document_loader import RunDocuments
from isolora.store import DONE, Point, Store, Trial
from isolora.study.design import Job
from isolora.study.suggestions import optuna, study_with_trials

OF_POINTS = ("loss", "train_loss", "forgetting")
"""Measures that are columns of a point; all others are among its metrics."""


@dataclass(frozen=True)
class RoundPruner:
    """Gives each stack of a round its pruner. told: trials of earlier rounds; asked: this one's; evaluations: of a whole
    trajectory, None where the budget does not tell."""

    store: Store
    search: SearchConfig
    evaluations: int | None
    told: tuple[Trial, ...]
    asked: tuple[Trial, ...]

    def __call__(self, job: Job) -> StackPruner:
        return StackPruner(self, job)


class StackPruner:
    """Says which runs of a stack end early, from their points one by one. What a stack did before it was cut off is replayed from
    the store in the order in which it happened, so that a resumed search decides as an undisturbed one."""

    def __init__(self, of_round: RoundPruner, job: Job) -> None:
        self.round, self.store = of_round, of_round.store
        documents = RunDocuments.load(job[0])
        self.configs = {documents.identity(config): config for config in job}
        self.order = list(self.configs)
        self.values: dict[str, dict[int, float]] = {run: {} for run in self.order}
        self.replayed = False

    @cached_property
    def trials(self) -> JsonObject:
        """Optuna's trial of each run: of those suggested twice, the first."""
        study = study_with_trials(self.round.search, self.round.told, pruner=_pruner(self.round.search, self.round.evaluations))
        asked = [(trial.run, study.ask()) for trial in self.round.asked]
        return dict(reversed(asked))

    def __call__(self, point: Point) -> bool:
        self.replay(point)
        return self._report(asdict(point))

    def replay(self, until: Point | None = None) -> None:
        """Report what the store knows of the stack before a point, or all of it; members take their steps together, so steps are
        its clock."""
        if self.replayed:
            return
        self.replayed = True
        points = [(point["step"], place, point) for place, run in enumerate(self.order) for point in self.store.points(run)]
        end = (math.inf, 0) if until is None else (until.step, self.order.index(until.run))
        for step, place, point in sorted(points, key=lambda row: row[:2]):
            if (step, place) < end:
                self._report(point)

    def _report(self, point: JsonMapping) -> bool:
        run, search = str(point["run"]), self.round.search
        if search.pruner == "none" and search.metric not in measures(point):
            return False  # a task that is scored at the end of its budget
        value = metric_at(point, search.metric)
        number = evaluation(self.configs[run].training, point["tokens"], max(self.values[run], default=0))
        self.values[run][number] = value
        trial = self.trials[run]
        trial.report(value, number)
        return bool(trial.should_prune())

    def ending(self, run: str, state: str) -> JsonObject:
        """What a trial's row says of a run that has ended, with what Optuna's pruner has noted of it."""
        values, trial = self.values[run], self.trials[run]
        noted = trial.study.trials[trial.number].system_attrs
        if state == DONE and not values:
            metric_at(self.store.points(run)[-1], self.round.search.metric)
        value = values[max(values)] if values else None
        return {"state": state, "value": value, "curve": json.dumps(values), "rungs": json.dumps(noted)}


def ends_here(search: SearchConfig, trials: Sequence[Trial], number: int, evaluations: int | None) -> tuple[bool, JsonObject]:
    """(whether a running trial is hopeless after its last evaluation, beside all others, what the pruner notes of it)."""
    study = study_with_trials(search, trials, pruner=_pruner(search, evaluations))
    ends = study.pruner.prune(study, study.trials[number])
    return bool(ends), study.trials[number].system_attrs


def measures(point: JsonMapping) -> dict[str, float]:
    """All that was measured at a point, by name."""
    return {name: point[name] for name in OF_POINTS if point[name] is not None} | dict(json.loads(point["metrics"]))


def metric_at(point: JsonMapping, metric: str) -> float:
    """The metric at a point. Raises ConfigError, naming what there is, where it was not measured."""
    found = measures(point)
    if metric not in found:
        raise ConfigError(f"search.metric: {metric!r} was not measured (valid: {', '.join(sorted(found))})")
    return found[metric]


def evaluation(training: TrainingConfig, tokens: int, previous: int) -> int:
    """Which evaluation of a trajectory this is, from 1: the mark that it has passed, so that trials whose large batches skip a
    mark are compared at like tokens; the one at the end of the budget lies between two marks and is the next."""
    marks = math.log(tokens / training.evaluate_from) / math.log(training.evaluate_ratio)
    return max(previous + 1, math.floor(marks + 1e-6) + 1)


def evaluations(runs: Sequence[RunConfig]) -> int | None:
    """Evaluations of the longest trajectory; None where a budget is not in tokens, so that only training will tell."""
    counts = [_evaluations(run.training) for run in runs]
    return None if None in counts else max(count for count in counts if count is not None)


def _evaluations(training: TrainingConfig) -> int | None:
    if training.tokens is None:
        return None
    ratio = training.tokens / training.evaluate_from
    return 1 + max(0, math.ceil(math.log(ratio) / math.log(training.evaluate_ratio) - 1e-6))


def _pruner(search: SearchConfig, whole: int | None) -> Any:
    pruners = optuna().pruners
    if search.pruner == "hyperband":
        most = "auto" if whole is None else max(whole, search.prune_from)
        return pruners.HyperbandPruner(search.prune_from, most, search.reduction_factor)
    if search.pruner == "median":
        return pruners.MedianPruner(n_warmup_steps=search.prune_from)
    return pruners.NopPruner()
