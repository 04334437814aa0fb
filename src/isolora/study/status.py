"""How a study or a run stands, from its folder alone, and asking whoever works on it to stop."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isolora.config.training import BUDGETS
from isolora.errors import ConfigError
from isolora.json_types import JsonMapping, JsonObject
from isolora.store import (
    ENDED,
    FAILED,
    FILE,
    INTERRUPTED,
    OUT_OF_MEMORY,
    PRUNED,
    RUNNING,
    STATE_NAMES,
    Store,
    adapter_place,
    state_name,
)
from isolora.training.lease import STOP_FILE, Owner, living_owner

STOP_SECONDS = 15.0
"""How long `stop` waits for the owner: a step, a checkpoint, and the end of the process."""


@dataclass(frozen=True)
class RunLine:
    """A run as a person tells it from others: what was trained, how far it is, where its adapter lies, if it has one, and
    when its state changed (seconds since 1970)."""

    run: str
    state: str
    stage: str
    model: str
    method: str
    rank: int | None
    learning_rate: float
    tokens: int
    loss: float | None
    adapter: str | None
    changed: float


@dataclass(frozen=True)
class Status:
    """states: name -> count; seconds_left: at the pace so far, None where nothing tells; owner: who trains there now; faults: run
    -> why it did not end well; each: the runs, in the order in which they were entered."""

    folder: Path
    states: Mapping[str, int]
    seconds_left: float | None
    owner: Owner | None
    faults: Mapping[str, str]
    each: Sequence[RunLine] = ()

    @property
    def runs(self) -> int:
        return sum(self.states.values())

    def to_json(self) -> JsonObject:
        owner = None if self.owner is None else vars(self.owner)
        return {
            "folder": str(self.folder),
            "states": dict(self.states),
            "runs": self.runs,
            "seconds_left": self.seconds_left,
            "owner": owner,
            "faults": dict(self.faults),
        }

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.states.items()) or "none yet"
        left = "" if self.seconds_left is None else f"\nleft   about {in_words(self.seconds_left)}"
        faults = "".join(f"\n{run}  {reason}" for run, reason in self.faults.items())
        return f"runs   {self.runs} ({counts})\nowner  {self.owner or 'nobody trains here now'}{left}{faults}"


def status(folder: Path | str) -> Status:
    """Raises ConfigError for a folder that is no study's and no run's. Writes nothing."""
    folder = Path(folder)
    if not (folder / FILE).is_file():
        raise ConfigError(f"{folder} holds no study and no run ({FILE} is missing)")
    store, owner = Store(folder), living_owner(folder)
    rows = store.runs()
    if owner is None:  # what it says is running was, when its process died
        rows = [{**row, "state": INTERRUPTED} if row["state"] == RUNNING else row for row in rows]
    counts = Counter(state_name(row["state"]) for row in rows)
    faults = {row["run"]: row["reason"] for row in rows if row["state"] in (FAILED, OUT_OF_MEMORY) and row["reason"]}
    states = {name: counts[name] for name in (*STATE_NAMES.values(), *counts) if counts[name]}
    last = store.last_points()
    left = seconds_left(rows, last, owner.workers if owner else 1)
    points = {point["run"]: point for point in last}
    each = [_line(folder, row, points.get(row["run"])) for row in rows]
    return Status(folder, states, left, owner, faults, each)


def _line(folder: Path, row: JsonMapping, point: JsonMapping | None) -> RunLine:
    place = adapter_place(folder, row["stage"], row["run"])
    return RunLine(
        state=state_name(row["state"]),
        tokens=0 if point is None else point["tokens"],
        loss=None if point is None else point["loss"],
        adapter=str(place) if place.is_dir() else None,
        changed=row["changed"] or 0.0,
        **{name: row[name] for name in ("run", "stage", "model", "method", "rank", "learning_rate")},
    )


def unspent_share(row: JsonMapping) -> float:
    """What a run that was ended early would still have cost, over what it has cost."""
    return 1 / float(json.loads(row["environment"])["spent"]) - 1


def stopped_early(store: Store) -> JsonObject:
    """Of a grid: how many runs were ended early, their FLOPs, and those that this saved; nothing where none was."""
    rows = [row for row in store.runs() if row["stage"] == "grid" and row["state"] == PRUNED]
    spent = {point["run"]: point["flops"] for point in store.last_points()}
    if not rows:
        return {}
    saved = sum(spent[row["run"]] * unspent_share(row) for row in rows)
    return {"runs": len(rows), "flops": sum(spent[row["run"]] for row in rows), "saved_flops": saved}


def run_table(each: Sequence[RunLine]) -> str:
    """A line for each run, aligned, the lowest loss first and those without one last."""
    rows = [("base", "adapter", "rate", "stage", "state", "tokens", "loss", "folder or run")]
    for line in sorted(each, key=lambda line: math.inf if line.loss is None else line.loss):
        kind = line.method + (f", rank {line.rank}" if line.rank else "")
        loss = "" if line.loss is None else f"{line.loss:.4f}"
        place = line.adapter or line.run
        rows.append((line.model, kind, f"{line.learning_rate:g}", line.stage, line.state, f"{line.tokens:,}", loss, place))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def seconds_left(rows: Sequence[JsonMapping], last: Sequence[JsonMapping], workers: int) -> float | None:
    """Training time that is missing of the runs entered so far, side by side on `workers`; evaluations come on top.

    A run takes as long as the mean of like ones (model and method) that have come far, in proportion to its budget; a run that is
    under way, as its own pace says.
    """
    missing = [row for row in rows if row["state"] not in ENDED]
    if not missing:
        return 0.0
    points = {point["run"]: point for point in last}
    paces: dict[Any, list[float]] = {}
    for row in rows:
        unit, _ = _budget(row)
        if row["run"] in points and unit:
            pace = points[row["run"]]["seconds"] / _amount(points[row["run"]], unit)
            for key in (row["run"], (row["model"], row["method"], unit), unit):
                paces.setdefault(key, []).append(pace)
    left = [_left(row, points.get(row["run"]), paces) for row in missing]
    known = [seconds for seconds in left if seconds is not None]
    return sum(known) / len(known) * len(left) / workers if known else None


def _left(row: JsonMapping, point: JsonMapping | None, paces: Mapping[object, Sequence[float]]) -> float | None:
    unit, budget = _budget(row)
    seen = paces.get(row["run"]) or paces.get((row["model"], row["method"], unit)) or paces.get(unit)
    done = 0.0 if point is None or not unit else _amount(point, unit)
    return None if seen is None else max(0.0, budget - done) * sum(seen) / len(seen)


def _budget(row: JsonMapping) -> tuple[str, float]:
    """Unit and amount of a run's budget; no unit where the store does not say."""
    training = json.loads(row["config"] or "{}").get("training", {})
    return next(((unit, float(training[unit])) for unit in BUDGETS if training.get(unit) is not None), ("", 0.0))


def _amount(point: JsonMapping, unit: str) -> float:
    """What a point has used up of a budget in that unit."""
    used = point[{"tokens": "tokens", "steps": "step", "epochs": "passes", "flops": "flops"}[unit]]
    return max(float(used), 1e-9)


def in_words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def stop(folder: Path | str, wait_seconds: float = STOP_SECONDS) -> bool:
    """Ask whoever trains in the folder to keep a checkpoint and end; returns whether it has within the time.

    A process on this machine is sent TERM; one elsewhere finds a file. Raises ConfigError where nobody trains there.
    """
    folder = Path(folder)
    owner = living_owner(folder)
    if owner is None:
        raise ConfigError(f"nothing to stop: nobody trains in {folder}")
    if owner.is_here and _exists(owner.pid):
        os.kill(owner.pid, signal.SIGTERM)
    else:
        (folder / STOP_FILE).touch()
    until = time.monotonic() + wait_seconds
    while time.monotonic() < until:
        if living_owner(folder) is None:
            return True
        time.sleep(0.2)
    return False


def _exists(pid: int) -> bool:
    """As far as this process sees: it does not see those of another container, whose owner finds the file."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
