"""A search: trials that Optuna suggests, each an ordinary run, then the training with the best values.

In this process trials share one stack, and whatever ends is replaced at once; where several processes train, and where trials
cannot share a stack, they come in rounds. Our store keeps the trials, which are entered before they are trained; Optuna's own
storages leave a trial that was killed running for ever. A second call tells Optuna what has ended, and goes on with the rest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from isolora import registry
from isolora.config import RangeConfig, RunConfig, SearchConfig, StudyConfig, content_hash
from isolora.errors import ConfigError
from isolora.json_types import JsonMapping, JsonObject
from isolora.metrics.direction import PER_TOKEN
from isolora.models import load_tokenizer
from isolora.runs.workspace import Workspace
from isolora.store import DONE, ENDED, OUT_OF_MEMORY, PRUNED, RUNNING, Store, Trial, state_name
from isolora.study import design
from isolora.study.executors.base import Failure, StudyFailed, Trained, no_pruner
from isolora.study.pruning import OF_POINTS, RoundPruner, evaluations, metric_at
from isolora.study.search_queue import SEARCH, SearchQueue
from isolora.study.status import unspent_share
from isolora.study.suggestions import optuna, suggest
from isolora.training.recorder import outcome

FINAL = "final"
AT_EVERY_POINT = (*OF_POINTS, "perplexity", "bits_per_byte")


@dataclass(frozen=True)
class Searched:
    """How a search ended. value: of the metric, in its unit; flops, tokens: of all trials; saved_flops, saved_tokens: what the
    pruned ones would still have cost, at their own cost of a token."""

    metric: str
    best: JsonObject
    value: float
    states: dict[str, int]
    runs: int
    flops: float
    saved_flops: float
    tokens: float
    saved_tokens: float
    final: JsonObject

    def to_json(self) -> JsonObject:
        return dict(vars(self))

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {state}" for state, count in self.states.items())
        values = ", ".join(f"{key} {_short(value)}" for key, value in self.best.items())
        saved = self.saved_flops / (self.flops + self.saved_flops)
        return "\n".join(
            [
                f"trials {sum(self.states.values())} ({counts}), {self.runs} runs",
                f"best   {self.metric} {self.value:.4f} at {values}",
                f"cost   {self.flops:.3g} FLOPs; pruning saved {self.saved_flops:.3g} ({saved:.0%})",
                f"final  {self._final_words()}",
            ]
        )

    def _final_words(self) -> str:
        if "value" not in self.final:
            return str(self.final["state"])
        return f"{self.metric} {self.final['value']:.4f} for {self.final['flops']:.3g} FLOPs ({self.final['state']})"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def check_search(study: StudyConfig) -> list[RunConfig]:
    """Every choice and every bound once, as runs. Raises ConfigError for whatever of the search cannot be run."""
    optuna()
    search = _search(study)
    first = {key: _values(choice)[0] for key, choice in search.space.items()}
    runs = [
        design.run_from_grid(study.base, {**first, key: value})
        for key, choice in search.space.items()
        for value in _values(choice)
    ]
    design.run_from_grid(study.base, {**first, **study.final})
    if search.metric not in AT_EVERY_POINT and search.pruner != "none" and not all(map(_scored_at_points, runs)):
        raise ConfigError(f"search.metric: {search.metric!r} is taken at the end alone; set task.score_at or search.pruner: none")
    if search.metric in PER_TOKEN:
        _demand_one_tokenizer(runs, search.metric)
    return runs


def _demand_one_tokenizer(runs: Sequence[RunConfig], metric: str) -> None:
    """Raises ConfigError where the runs' bases cut texts into tokens of their own: means over tokens do not compare then."""
    by_model = {run.model: run for run in runs if registry.load_plug_in("task", run.task.name).predicts_tokens}
    if len(by_model) < 2:  # and so no tokenizer has to be read
        return
    (first, known), *others = [(name, load_tokenizer(run).get_vocab()) for name, run in by_model.items()]
    for other, vocabulary in others:
        if vocabulary != known:
            raise ConfigError(
                f"search.metric: {metric!r} is a mean over tokens, into which {first} and {other} cut texts differently;"
                " set search.metric: bits_per_byte"
            )


def _scored_at_points(run: RunConfig) -> bool:
    plain = registry.load_plug_in("task", run.task.name)
    return bool(plain.bound(plain.Settings(**run.task.fields())).scored_at == "points")


def _search(study: StudyConfig) -> SearchConfig:
    assert study.search is not None
    return study.search


def _values(choice: RangeConfig | list[Any]) -> list[Any]:
    return choice if isinstance(choice, list) else [choice.low, choice.high]


def identity(study: StudyConfig) -> str:
    """Hash of what decides which trials come: not how many, and not what follows them."""
    return content_hash({"base": study.base, "search": _search(study).model_dump(exclude={"trials"})})


def run_search(study: StudyConfig, store: Store, train: Trained, workspace: Workspace, workers: int | None = None) -> Searched:
    """Run what is missing of the search and its final training. workers: processes that train; None: this one does.

    Raises ConfigError when no trial ended well.
    """
    corners = check_search(study)
    together = len(design.stacks(corners, len(corners))) == 1
    if workers is None and together:
        _refill_one_stack(study, store, train, workspace, evaluations(corners))
    else:
        _in_rounds(study, store, train, workspace, corners, (workers or 1) * (study.stack if together else 1))
    if failures := train([(final_run(study, store.trials(identity(study))),)], FINAL, no_pruner):
        raise StudyFailed(store, failures)
    return search_result(study, store, workspace)


def _refill_one_stack(study: StudyConfig, store: Store, train: Trained, workspace: Workspace, whole: int | None) -> None:
    """Train all trials in one stack, in which whatever ends is replaced at once; in another one, should the first one break."""

    def run_of(values: JsonMapping) -> tuple[str, RunConfig]:
        config = design.run_from_grid(study.base, values)
        return workspace.identity(config), config

    while first := (queue := SearchQueue(identity(study), _search(study), store, run_of, study.stack, whole)).next_runs({}):
        failures = train([tuple(first.values())], SEARCH, lambda job: queue)
        queue.tell_ended()
        if failures and queue.unfinished:
            raise StudyFailed(store, failures)


def _in_rounds(
    study: StudyConfig, store: Store, train: Trained, workspace: Workspace, corners: Sequence[RunConfig], width: int
) -> None:
    """Train so many trials at a time; the next ones are suggested when all of them have ended."""
    key = identity(study)
    while asked := _next_round(study, store, key, width, workspace):
        told = tuple(trial for trial in store.trials(key) if trial.state != RUNNING)
        pruner = RoundPruner(store, _search(study), evaluations(corners), told, tuple(asked))
        jobs = _jobs(study, pruner)
        _raise_failed(store, train(jobs, SEARCH, pruner), pruner)
        store.keep_trials(_ended(store, pruner, jobs))


def _raise_failed(store: Store, failures: Sequence[Failure], pruner: RoundPruner) -> None:
    """A round in which a stack failed is not told: the next ones would come out otherwise. Too little memory is an end like
    others: the search goes on elsewhere."""
    states = store.states()
    if failures and any(states.get(trial.run) not in (*ENDED, OUT_OF_MEMORY) for trial in pruner.asked):
        raise StudyFailed(store, failures)


def _next_round(study: StudyConfig, store: Store, key: str, width: int, workspace: Workspace) -> list[Trial]:
    """The round to train: the one that was cut off, else a new one; empty when all trials have been."""
    trials = store.trials(key)
    cut_off = [trial for trial in trials if trial.state == RUNNING]
    count = min(width, _search(study).trials - len(trials))
    if cut_off or count <= 0:
        return cut_off
    number = 1 + max((trial.round for trial in trials), default=-1)
    suggested = suggest(_search(study), trials, count)
    asked = [
        Trial(key, len(trials) + place, number, workspace.identity(design.run_from_grid(study.base, values)), json.dumps(values))
        for place, values in enumerate(suggested)
    ]
    store.keep_trials(asked)
    return asked


def _jobs(study: StudyConfig, pruner: RoundPruner) -> list[design.Job]:
    """The round's runs that no earlier round has had, once each."""
    known_runs = {trial.run for trial in pruner.told}
    fresh = {trial.run: json.loads(trial.parameters) for trial in pruner.asked if trial.run not in known_runs}
    return design.stacks([design.run_from_grid(study.base, values) for values in fresh.values()], study.stack)


def _ended(store: Store, pruner: RoundPruner, jobs: Sequence[design.Job]) -> list[Trial]:
    """The round's trials with how they ended; one suggested before ends as it did then, and does not compete a second time."""
    states = store.states()
    endings = {trial.run: _ending(trial) for trial in pruner.told}
    for of_stack in map(pruner, jobs):
        of_stack.replay()
        endings |= {run: of_stack.ending(run, states[run]) for run in of_stack.order}
    rows = []
    for trial in pruner.asked:
        rows.append(replace(trial, **endings[trial.run]))
        endings[trial.run] = _ending(rows[-1])
    return rows


def _ending(trial: Trial) -> JsonObject:
    return {"state": trial.state, "value": trial.value, "curve": trial.curve}


def best_trial(study: StudyConfig, trials: Sequence[Trial]) -> Trial:
    """The best of those that came to their end. Raises ConfigError when none did."""
    done = [trial for trial in trials if trial.state == DONE]
    if not done:
        raise ConfigError(f"search: none of {len(trials)} trials came to its end; lower the learning rates or set pruner: none")
    sign = -1 if _search(study).maximizes else 1
    return min(done, key=lambda trial: sign * float(trial.value or 0.0))


def final_run(study: StudyConfig, trials: Sequence[Trial]) -> RunConfig:
    """The best values with what `final` sets beside them."""
    return design.run_from_grid(study.base, {**json.loads(best_trial(study, trials).parameters), **study.final})


def search_result(study: StudyConfig, store: Store, workspace: Workspace | None = None) -> Searched:
    """What the store knows of a search that has ended."""
    trials = store.trials(identity(study))
    best, final = best_trial(study, trials), (workspace or Workspace()).identity(final_run(study, trials))
    rows = {row["run"]: row for row in store.runs()}
    last = {point["run"]: point for point in store.points()}
    own = dict.fromkeys(trial.run for trial in trials if trial.run in last)
    rest = {run: unspent_share(rows[run]) for run in own if rows[run]["state"] == PRUNED}
    states = [state_name(trial.state) for trial in trials]
    metric = _search(study).metric
    return Searched(
        metric=metric,
        best=json.loads(best.parameters),
        value=float(best.value or 0.0),
        states={state: states.count(state) for state in dict.fromkeys(states)},
        runs=len(own),
        flops=sum(last[run]["flops"] for run in own),
        saved_flops=sum(last[run]["flops"] * share for run, share in rest.items()),
        tokens=sum(last[run]["tokens"] for run in own),
        saved_tokens=sum(last[run]["tokens"] * share for run, share in rest.items()),
        final=outcome(store, final) | ({"value": metric_at(last[final], metric)} if final in last else {}),
    )
