"""Points on their way into the store are passed on to the trackers that a run names, by accelerate's adapters for them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import copy_context
from importlib import import_module
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from isolora.config import RunConfig
from isolora.errors import MissingExtra
from isolora.runs.member import Member
from isolora.runs.observer import Observer
from isolora.runs.optimizer import rate_factor
from isolora.store import Point
from isolora.training.stack import Stack

FOLDER = "trackers"
SERIES = ("loss", "train_loss", "flops", "seconds", "passes")


def check(configs: Iterable[RunConfig]) -> None:
    """Raises MissingExtra where a tracker's package is not installed."""
    for package in sorted({name for config in configs for name in config.training.trackers}):
        try:
            import_module(package)
        except ImportError:
            raise MissingExtra(package, "track") from None


@contextmanager
def tracked(stack: Stack, out: Path) -> Iterator[Tracking]:
    """The trackers that the members of a stack ask for, as an observer; closed at the end. out: the folder of the store."""
    kinds = sorted({kind for member in stack.members for kind in member.training.trackers})
    trackers = [Tracker(kind, stack, out.resolve()) for kind in kinds]
    try:
        yield Tracking(trackers)
    finally:
        for tracker in trackers:
            tracker.finish()


class Tracking(Observer):
    """Passes points on to trackers."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = trackers

    def on_points(self, stack: Stack, points: Sequence[Point]) -> None:
        for tracker in self.trackers:
            tracker.log(points)


class Tracker:
    """A stack in one kind of tracker, a run of it for every member that asks for it.

    The first thing that goes wrong is told in one line and ends the tracker; the training goes on.
    """

    def __init__(self, kind: str, stack: Stack, out: Path) -> None:
        self.kind, self.out, self.works = kind, out, True
        named = zip(stack.names, stack.members, strict=True)
        self.members = {name: member for name, member in named if kind in member.training.trackers}
        self.runs: dict[str, GeneralTracker] = {}
        for name, member in self.members.items():
            self._try(self._start, name, dotted(member.config.model_dump(mode="json")))

    def log(self, points: Iterable[Point]) -> None:
        for point in points:
            if point.run in self.members:
                self._try(self._log, point)

    def finish(self) -> None:
        for run in self.runs.values():
            self._try(run.finish)

    def _start(self, name: str, config: dict[str, Any]) -> None:
        made, folder = LOGGER_TYPE_TO_CLASS[self.kind], self.out / FOLDER
        if made.requires_logging_directory:
            self.runs[name] = made(name, folder)
            self.runs[name].start()
            self.runs[name].store_init_configuration(config)
            return
        folder.mkdir(exist_ok=True)
        own = {"wandb": {"id": name, "dir": folder, "reinit": "create_new"}}.get(self.kind, {})
        # Told the configuration at once: accelerate would tell it to "the current run", and a stack has several.
        self.runs[name] = made(self.out.name, name=name, config=config, resume="allow", **own)
        copy_context().run(self.runs[name].start)  # trackio ends the run that its context holds when another one starts

    def _log(self, point: Point) -> None:
        self.runs[point.run].log(series(point, self.members[point.run]), step=point.tokens)

    def _try(self, act: Callable[..., None], *given: Any) -> None:
        if not self.works:
            return
        try:
            with redirect_stdout(sys.stderr):  # trackio talks on standard output, which belongs to the command line
                act(*given)
        except Exception as failure:  # each tracker has its own, and those of its client; none is worth a run
            self.works = False
            said = " ".join(str(failure).split()) or type(failure).__name__
            print(f"isolora: tracker {self.kind} is given up, training goes on: {said}", file=sys.stderr)


def series(point: Point, member: Member) -> dict[str, float]:
    """What is plotted over tokens; learning_rate: that of the next step."""
    training = member.training
    found = {name: getattr(point, name) for name in SERIES} | {"steps": point.step}  # trackio keeps `step` for its own
    found["learning_rate"] = training.learning_rate * rate_factor(training, point.step, member.spent())
    if point.forgetting is not None:
        found["forgetting"] = point.forgetting
    return found | {f"metrics/{name}": value for name, value in json.loads(point.metrics).items()}


def dotted(given: Mapping[str, Any], group: str = "") -> dict[str, Any]:
    """A nested configuration as one level of dotted keys; a list becomes its JSON."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(value, Mapping):
            found |= dotted(value, f"{group}{key}.")
        else:
            found[group + key] = json.dumps(value) if isinstance(value, list) else value
    return found
