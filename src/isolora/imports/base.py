"""What an importer is: it reads one tracker's files into runs, each with its settings and what was logged at each step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from isolora.config.strict_yaml import parse_yaml
from isolora.errors import ConfigError, TableError, in_brief
from isolora.json_types import JsonMapping, JsonObject
from isolora.table.columns import parse_number
from isolora.table.foreign import foreign_text


@dataclass(frozen=True)
class LoggedRun:
    """A run as its tracker kept it. config: settings, dotted keys where they were nested; history: step -> what was logged there,
    under the tracker's own names; numbered: whether its steps are only the places of its rows, since none were given."""

    name: str
    config: JsonMapping = field(default_factory=dict)
    history: Mapping[float, JsonMapping] = field(default_factory=dict)
    numbered: bool = False

    @property
    def replaced(self) -> Mapping[str, int]:
        """Name -> how many of its values gave way to a later one at the same step."""
        return self.history.replaced if isinstance(self.history, Steps) else Counter()


@dataclass(frozen=True)
class Read:
    """What an importer found. left_out: counts of what it did not use, by reason; notes: sentences about the rest."""

    runs: tuple[LoggedRun, ...]
    left_out: Mapping[str, int] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()


class Importer(ABC):
    """One tracker's files."""

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ()
    """Packages without which its files cannot be read."""
    reads: ClassVar[str]
    """What SOURCE must be, for an error's sentence."""

    @abstractmethod
    def read(self, source: Path) -> Read:
        """The runs in a file or a folder. Raises TableError, one line, for what is none of this tracker's."""

    def refuse(self, source: Path) -> TableError:
        return TableError(f"SOURCE: {source} holds nothing of {self.name}; it reads {self.reads}")


def dotted_settings(given: JsonMapping, prefix: str = "") -> JsonObject:
    """Nested settings as one level of dotted keys; lists are left out. `{"value": x}`, as W&B keeps a setting, is x."""
    found: JsonObject = {}
    for key, value in given.items():
        if isinstance(value, Mapping):
            wrapped = set(value) <= {"value", "desc"} and "value" in value
            inner = value["value"] if wrapped else value
            found |= dotted_settings(inner, f"{prefix}{key}.") if isinstance(inner, Mapping) else {f"{prefix}{key}": inner}
        elif not isinstance(value, list):
            found[f"{prefix}{key}"] = value
    return found


class Steps(dict[float, JsonObject]):
    """Step -> what was logged there. `replaced` counts by name the values in whose place the same step later got another one."""

    def __init__(self, rows: Iterable[tuple[float, JsonObject]] = (), replaced: Mapping[str, int] | None = None) -> None:
        super().__init__(sorted(rows, key=lambda row: row[0]))
        self.replaced = Counter(replaced or {})


def by_step(rows: Iterable[tuple[object, JsonMapping]]) -> Steps:
    """What was logged at a step in several pieces, in one. Raises TableError for a step that is no number."""
    found: dict[float, JsonObject] = {}
    replaced: Counter[str] = Counter()
    for step, row in rows:
        known = found.setdefault(at_step(step), {})
        replaced.update(name for name in known.keys() & row.keys() if known[name] not in (None, "", row[name]))
        known.update(row)
    return Steps(found.items(), replaced)


def told_apart(runs: Iterable[LoggedRun]) -> tuple[LoggedRun, ...]:
    """Run names need not be unique; those given twice are numbered."""
    seen: Counter[str] = Counter()
    apart = []
    for run in runs:
        seen[run.name] += 1
        apart.append(run if seen[run.name] == 1 else replace(run, name=f"{run.name} ({seen[run.name]})"))
    return tuple(apart)


def foreign_yaml(path: Path) -> Any:
    """The value in a YAML file. Raises TableError."""
    try:
        return parse_yaml(foreign_text(path), where=repr(str(path)))
    except ConfigError as error:
        raise TableError(f"{error}") from error


def at_step(given: object) -> float:
    """A step as a number. Raises TableError."""
    value = (
        None if isinstance(given, bool | list | Mapping) else parse_number(given.decode() if isinstance(given, bytes) else given)
    )
    if value is None or not math.isfinite(value):
        raise TableError(f"step {in_brief(repr(given))} is no number")
    return value
