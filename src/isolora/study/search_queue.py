"""A search in one stack: whether a trial ends early, and which one takes its place, suggested by all that have ended by then.

What is decided follows from the trials in the store alone, which hold their values so far: so a search that was cut off goes on
as if nothing had happened.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace

from isolora.config import RunConfig, SearchConfig
from isolora.json_types import JsonMapping, JsonObject
from isolora.store import DONE, ENDED, OUT_OF_MEMORY, RUNNING, Point, Store, Trial
from isolora.study.pruning import ends_here, evaluation, measures, metric_at
from isolora.study.suggestions import suggest
from isolora.training.recorder import environment, run_row
from isolora.training.refill import Queue

SEARCH = "search"
RunOf = Callable[[JsonMapping], tuple[str, RunConfig]]
"""A trial's values -> its run's identity and configuration."""


class SearchQueue(Queue):
    """name: the search's identity; width: of the stack; evaluations: of a whole trajectory, None where a budget does not tell."""

    def __init__(self, name: str, search: SearchConfig, store: Store, run_of: RunOf, width: int, evaluations: int | None) -> None:
        super().__init__(name)
        self.search, self.store, self.run_of = search, store, run_of
        self.width, self.evaluations = width, evaluations
        self.trials = store.trials(name)
        self.configs = dict(run_of(json.loads(trial.parameters)) for trial in self.trials)
        self.tell_ended()

    @property
    def unfinished(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == RUNNING]

    def __call__(self, point: Point) -> bool:
        """Whether a trial ends here; its value is kept."""
        facts, trial = asdict(point), next(trial for trial in self.unfinished if trial.run == point.run)
        if self.search.pruner == "none" and self.search.metric not in measures(facts):
            return False  # a task that is scored at the end of its budget
        number, curve = self._evaluation(point), {int(key): value for key, value in json.loads(trial.curve).items()}
        if number < max(curve, default=0):  # it was decided before it was cut off
            return False
        self._keep(replace(trial, curve=json.dumps(curve | {number: metric_at(facts, self.search.metric)})))
        ends, noted = ends_here(self.search, self.trials, trial.number, self.evaluations)
        self._keep(replace(self.trials[trial.number], rungs=json.dumps(noted)))
        return ends

    def _evaluation(self, point: Point) -> int:
        """Which evaluation of its trajectory a point is."""
        number, training = 0, self.configs[point.run].training
        for earlier in self.store.points(point.run):
            if earlier["tokens"] <= point.tokens:
                number = evaluation(training, earlier["tokens"], number)
        return number

    def next_runs(self, ended: Mapping[str, str], running: Collection[str] = ()) -> dict[str, RunConfig]:
        """Those that wait first, then new ones."""
        self._tell(ended)
        free = self.width - len(running)
        joining = {trial.run: self.configs[trial.run] for trial in self.unfinished if trial.run not in running}
        while len(joining) < free and (asked := self._ask(free - len(joining))):
            joining |= {run: self.configs[run] for run in asked if run not in running}
        self.store.set_state(joining, RUNNING)
        return joining

    def _ask(self, most: int) -> list[str]:
        """The runs of so many new trials, of as many as are left; those that ran before end as they did then."""
        first, together = len(self.trials), 1 + max((trial.round for trial in self.trials), default=-1)
        for number, values in enumerate(suggest(self.search, self.trials, min(most, self.search.trials - first)), first):
            run, config = self.run_of(values)
            self.configs[run] = config
            self.store.add([run_row(config, run, SEARCH)], environment())
            self.trials.append(Trial(self.name, number, together, run, json.dumps(values)))
            self._keep(self.trials[-1])
        self.tell_ended()
        return [trial.run for trial in self.trials[first:]]

    def tell_ended(self) -> None:
        """Enter how trials have ended whose runs have."""
        self._tell({run: state for run, state in self.store.states().items() if state in (*ENDED, OUT_OF_MEMORY)})

    def _tell(self, ended: Mapping[str, str]) -> None:
        for trial in self.unfinished:
            if trial.run in ended:
                self._keep(replace(trial, **self._ending(trial, ended[trial.run])))

    def _ending(self, trial: Trial, state: str) -> JsonObject:
        """How its run ended, which of those suggested twice competes for the first alone."""
        first = next(each for each in self.trials if each.run == trial.run)
        if first.number != trial.number:
            return {"state": first.state, "value": first.value, "curve": first.curve}
        curve = {int(key): value for key, value in json.loads(trial.curve).items()}
        if state == DONE and not curve:
            metric_at(self.store.points(trial.run)[-1], self.search.metric)
        return {"state": state, "value": curve[max(curve)] if curve else None}

    def _keep(self, trial: Trial) -> None:
        self.trials[trial.number] = trial
        self.store.keep_trials([trial])
