"""Suggestions by Optuna: values for the next trials, from the trials told so far alone.

Optuna remembers nothing between two calls. Its study is filled anew from our trials, and its sampler is seeded with the number
of the trial that is asked for: so a search that was cut off goes on as if nothing had happened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from isolora.config import RangeConfig, SearchConfig, content_hash
from isolora.errors import MissingExtra
from isolora.json_types import JsonObject
from isolora.store import DONE, PRUNED, RUNNING, Trial

Parameters = JsonObject
"""Dotted key of a run -> value."""


def optuna() -> ModuleType:
    try:
        import optuna
    except ImportError:
        raise MissingExtra("optuna", "optuna") from None
    found: ModuleType = optuna
    return found


@contextmanager
def without_news() -> Iterator[None]:
    """Within, Optuna tells of no study that is made; afterwards it speaks as before."""
    told = optuna().logging
    level = told.get_verbosity()
    told.set_verbosity(max(level, told.WARNING))
    try:
        yield
    finally:
        told.set_verbosity(level)


def suggest(search: SearchConfig, trials: Sequence[Trial], count: int) -> list[Parameters]:
    """Values for `count` more trials at once; none of them knows how the others will end, nor those that are running.

    Hyperband's brackets are the pruner's alone: the sampler learns from all trials, for a bracket of a search of ordinary length
    holds too few to learn from.
    """
    spaces = distributions(search)
    told = [trial for trial in trials if trial.state != RUNNING]
    study = study_with_trials(search, told, sampler=_sampler(search, len(trials)))
    asked = [study.ask(spaces) for _ in range(count)]
    return [{name: _decoded(search, name, value) for name, value in trial.params.items()} for trial in asked]


def study_with_trials(search: SearchConfig, told: Sequence[Trial], **parts: object) -> Any:
    """An Optuna study in memory that has seen the trials."""
    direction = "maximize" if search.maximizes else "minimize"
    with without_news():
        study = optuna().create_study(direction=direction, study_name=f"search-{search.seed}", **parts)
    study.add_trials([_frozen(search, trial) for trial in told])
    return study


def distributions(search: SearchConfig) -> JsonObject:
    return {name: _distribution(choice) for name, choice in search.space.items()}


def _distribution(choice: RangeConfig | list[Any]) -> Any:
    kinds = optuna().distributions
    if isinstance(choice, list):
        return kinds.CategoricalDistribution([json.dumps(value) for value in choice])
    whole = isinstance(choice.low, int) and isinstance(choice.high, int)
    return (kinds.IntDistribution if whole else kinds.FloatDistribution)(choice.low, choice.high, log=choice.log)


def _decoded(search: SearchConfig, name: str, value: Any) -> Any:
    """Choices are JSON to Optuna, which takes no lists and thinks 1 and true the same."""
    return json.loads(value) if isinstance(search.space[name], list) else value


def _frozen(search: SearchConfig, trial: Trial) -> Any:
    """A trial as Optuna knows it. One that diverged is told as pruned before any evaluation, which is as bad as can be."""
    states = optuna().trial.TrialState
    state = {DONE: states.COMPLETE, RUNNING: states.RUNNING}.get(trial.state, states.PRUNED)
    parameters = json.loads(trial.parameters)
    encoded = {name: json.dumps(value) if isinstance(search.space[name], list) else value for name, value in parameters.items()}
    heard = trial.state in (DONE, PRUNED, RUNNING)
    return optuna().trial.create_trial(
        state=state,
        value=trial.value if trial.state == DONE else None,
        params=encoded,
        distributions=distributions(search),
        intermediate_values={int(number): value for number, value in json.loads(trial.curve).items()} if heard else {},
        system_attrs=json.loads(trial.rungs),
    )


def _sampler(search: SearchConfig, first: int) -> Any:
    seed = int(content_hash([search.seed, first])[:8], 16)
    if search.sampler == "random":
        return optuna().samplers.RandomSampler(seed=seed)
    return optuna().samplers.TPESampler(seed=seed, n_startup_trials=search.startup)
