"""Where a prediction is asked for: rows of a table, or `n=1e8` words; and the answer there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from isolora import laws
from isolora.errors import ConfigError, TableError, unknown
from isolora.fit.known_places import as_table
from isolora.fit.law_columns import NOT_NUMBERS, positive_numbers, where_absent
from isolora.fit.place_defaults import with_defaults
from isolora.fit.result import Fit
from isolora.fit.target import Score
from isolora.json_types import JsonMapping, JsonObject
from isolora.paths import is_there
from isolora.table import SHORT_NAMES, Table, places_of, read_places, with_known_sizes

_WORDS = ("learning_rate", "method", "model", "family", "rank", "unique_examples")
_EXTRA = {"lr": "learning_rate", "examples": "unique_examples", **{name: name for name in _WORDS}}
_FAR = 100.0
"""Factor beyond the points from which a prediction is said to rest on nothing that was judged."""


def asked(words: Sequence[str], mapping: Mapping[str, str] | None = None) -> Table:
    """The places of a table's path, or of `key=value` words. Raises UserError, one line."""
    if len(words) == 1 and ("=" not in words[0] or is_there(words[0])):
        return read_places(words[0], mapping)
    known = {**SHORT_NAMES, **{name: name for name in SHORT_NAMES.values()}, **_EXTRA}
    row: dict[str, list[Any]] = {}
    for word in words:
        for part in word.replace(",", " ").split():
            name, equals, value = part.partition("=")
            if not (equals and value):
                raise ConfigError(f"--at: expected a table or key=value such as n=1e8, got {part!r}")
            if name not in known and name.lower() not in known:
                raise ConfigError(unknown("key of --at", name, known))
            row[known.get(name, known.get(name.lower(), name))] = [value]
    return places_of(row)


def predicted(fit: Fit, places: Table, table: Table | None = None) -> JsonObject:
    """The answer of `isolora predict --json`: points with their intervals, the law, warnings. Raises TableError when the places
    lack what the law reads.

    table: of the study, from which places that name a model and a rank get their sizes; without it, what the fit knows of it.
    """
    table = as_table(fit.known) if table is None else table
    if not len(places):
        raise TableError("there is no place to predict at: the table of places has no rows")
    reads = {name for each in fit.averaged for name in laws.resolve(each.law).demands}
    places, taken = _known(places) if table is None else with_defaults(places, table, reads)
    columns = columns_of(fit, places)
    low_M, high_M = fit.interval(columns)
    rows = zip(fit.predict(columns), low_M, high_M, strict=True)
    return {
        "points": [_point(fit.target, float(value), (float(low), float(high))) for value, low, high in rows],
        "target": fit.target,
        "law": fit.law,
        "warnings": [*taken, *fit.remarks, *_about_rates(fit, columns, table), *_warnings(fit, columns)],
    }


def _known(places: Table) -> tuple[Table, tuple[str, ...]]:
    """Places of a fit without its table, with the sizes of packaged models. Raises TableError for what only a table can tell."""
    if "unique_examples" in places and not _given(places, "unique_tokens"):
        raise TableError("examples: a fit that was written down does not know how many tokens they have; name unique_tokens")
    found = with_known_sizes(places)
    return found, found.notes


def _point(target: str, predicted: float, interval: tuple[float, float]) -> JsonObject:
    """A prediction; with the score itself where the target is the error of one."""
    score = Score.of(target, predicted, interval)
    return {"predicted": predicted, "interval": list(interval)} | ({"score": score.to_json()} if score else {})


def columns_of(fit: Fit, places: Table) -> JsonObject:
    """A table's columns in the laws' short names, as `Fit.predict` takes them; NaN where a row has none. Raises TableError for
    one that is not above 0."""
    columns: JsonObject = {
        short: positive_numbers(short, places[name]) for short, name in SHORT_NAMES.items() if _told(places, name)
    }
    if {"c", "n"} <= columns.keys():
        bought = columns["c"] / (fit.price or 6.0) / columns["n"]
        columns["d"] = where_absent(columns.get("d", bought), bought)
    return columns | {name: places[name] for name in NOT_NUMBERS if name in places}


def _told(places: Table, name: str) -> bool:
    """Whether any row says it."""
    return name in places and not bool(np.isnan(places[name]).all())


def _given(places: Table, name: str) -> bool:
    """Whether every row says it."""
    return name in places and not bool(np.isnan(places[name]).any())


def _about_rates(fit: Fit, columns: JsonMapping, table: Table | None) -> list[str]:
    """That a rate which was not tried is not read, where nothing tells what another rate costs."""
    if fit.rates is not None or "learning_rate" not in columns:
        return []
    asked = np.asarray(columns["learning_rate"], dtype=float)
    tried = table["learning_rate"] if table is not None and "learning_rate" in table else np.array([])
    new = np.unique(asked[~np.isnan(asked) & ~np.isin(asked, tried)])
    if not new.size:
        return []
    shown = ", ".join(f"{rate:g}" for rate in new[:4])
    return [f"learning rate {shown} is not read: too few rates were compared to tell what another than the best one costs"]


def _warnings(fit: Fit, columns: JsonMapping) -> list[str]:
    """What to mind about places far from the points."""
    numbers = {name: np.asarray(values, dtype=float) for name, values in columns.items() if name in fit.ranges}
    found = []
    far_M = np.exp(fit.distance(columns))
    if (far_M > _FAR).any():
        count = int((far_M > _FAR).sum())
        found.append(f"{count} of {len(far_M)} places lie more than {_FAR:.0f} x beyond the points (up to {far_M.max():.3g} x)")
    for name, values_M in numbers.items():
        low = fit.ranges[name][0]
        if (values_M < low / 1.01).any():
            count = int((values_M < low / 1.01).sum())
            found.append(
                f"{count} of {len(far_M)} places lie below the fitted range of {name} ({low:.3g}): an extrapolation downwards"
            )
    return found
