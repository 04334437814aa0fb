"""Points on their way into the store are passed on to the trackers that a run names."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from isolora import registry
from isolora.config import RunConfig
from isolora.errors import in_brief
from isolora.json_types import JsonMapping, JsonObject
from isolora.runs.member import Member
from isolora.runs.observer import Observer
from isolora.runs.optimizer import rate_factor
from isolora.store import Point
from isolora.training.stack import Stack
from isolora.training.trackers.base import OpenRun, TrackedRun

FOLDER = "trackers"
SERIES = ("loss", "train_loss", "flops", "seconds", "passes")


def check_trackers(configs: Iterable[RunConfig]) -> None:
    """Raises MissingExtra where a tracker's package is not installed."""
    for name in sorted({name for config in configs for name in config.training.trackers}):
        registry.ready("tracker", name)


@contextmanager
def tracked(stack: Stack, out: Path) -> Iterator[Tracking]:
    """The trackers that the members of a stack ask for, as an observer; closed at the end. out: the folder of the store."""
    names = sorted({name for member in stack.members for name in member.training.trackers})
    opened = [TrackedStack(name, stack, out.resolve()) for name in names]
    try:
        yield Tracking(opened)
    finally:
        for tracker in opened:
            tracker.finish()


class Tracking(Observer):
    """Passes points on to trackers."""

    def __init__(self, trackers: Sequence[TrackedStack]) -> None:
        self.trackers = trackers

    def on_points(self, stack: Stack, points: Sequence[Point]) -> None:
        for tracker in self.trackers:
            tracker.log(points)

    def on_joined(self, stack: Stack) -> None:
        for tracker in self.trackers:
            tracker.join(stack)


class TrackedStack:
    """A stack in one tracker, a run of it for every member that asks for it.

    The first thing that goes wrong is told in one line and ends the tracking; the training goes on.
    """

    def __init__(self, name: str, stack: Stack, out: Path) -> None:
        self.name, self.out, self.works = name, out, True
        self.tracker = registry.load_plug_in("tracker", name)
        self.members: dict[str, Member] = {}
        self.runs: dict[str, OpenRun] = {}
        self.join(stack)

    def join(self, stack: Stack) -> None:
        """Start the runs of members that are new to it."""
        for run, member in zip(stack.names, stack.members, strict=True):
            if self.name not in member.training.trackers:
                continue
            if run not in self.members:
                self._try(self._start, run, dotted_configuration(member.config.model_dump(mode="json")))
            self.members[run] = member

    def log(self, points: Iterable[Point]) -> None:
        for point in points:
            if point.run in self.members:
                self._try(self._log, point)

    def finish(self) -> None:
        for run in self.runs.values():
            self._try(run.finish)

    def _start(self, run: str, config: JsonObject) -> None:
        opened = self.tracker.start(TrackedRun(run, self.out.name, self.out / FOLDER, config))
        if not all(callable(getattr(opened, name, None)) for name in ("log", "finish")):
            raise TypeError(f"start() gave {type(opened).__name__}; expected an object with log and finish")
        self.runs[run] = opened

    def _log(self, point: Point) -> None:
        self.runs[point.run].log(series(point, self.members[point.run]), step=point.tokens)

    def _try(self, act: Callable[..., None], *given: object) -> None:
        if not self.works:
            return
        try:
            with redirect_stdout(sys.stderr):  # trackio talks on standard output, which belongs to the command line
                act(*given)
        except Exception as failure:  # each tracker has its own, and those of its client; none is worth a run
            self.works = False
            package = registry.package_of("tracker", self.name)
            called = f"{self.name} (package {package})" if package else self.name
            said = in_brief(failure)
            print(f"isolora: tracker {called} is given up, training goes on: {said}", file=sys.stderr)


def series(point: Point, member: Member) -> dict[str, float]:
    """What is plotted over tokens; learning_rate: that of the next step."""
    training = member.training
    found = {name: getattr(point, name) for name in SERIES} | {"steps": point.step}  # trackio keeps `step` for its own
    found["learning_rate"] = training.learning_rate * rate_factor(training, point.step, member.spent())
    if point.forgetting is not None:
        found["forgetting"] = point.forgetting
    return found | {f"metrics/{name}": value for name, value in json.loads(point.metrics).items()}


def dotted_configuration(given: JsonMapping, group: str = "") -> JsonObject:
    """A nested configuration as one level of dotted keys; a list becomes its JSON."""
    found: JsonObject = {}
    for key, value in given.items():
        if isinstance(value, Mapping):
            found |= dotted_configuration(value, f"{group}{key}.")
        else:
            found[group + key] = json.dumps(value) if isinstance(value, list) else value
    return found
