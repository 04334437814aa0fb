"""What a law is fitted to: the loss, or another measure, as something that falls towards a floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from isolora.errors import TableError, unknown
from isolora.fit.token_units import BITS_PER_BYTE, incomparable
from isolora.json_types import JsonMapping, JsonObject
from isolora.metrics.direction import PER_TOKEN, column_of, is_known_measure, is_score, larger_is_better
from isolora.table import Table
from isolora.table.columns import no_number

ERROR_OF = "1 - "


@dataclass(frozen=True)
class Target:
    """name: what the law is of, such as "1 - token_f1"; table: its points, with that in the column `loss`; left_out: how many
    points were not used, by reason; bounded: whether it is an error 1 - score of a score between 0 and 1; instead: why it is not
    what was asked for, or not called so."""

    name: str
    table: Table
    left_out: Mapping[str, int]
    bounded: bool = False
    instead: str = ""


def targeted(table: Table, name: str) -> Target:
    """The points of a measure: the loss, a metric, any other column that is better when smaller, or "1 - COLUMN".

    A score, 1 at best, is fitted as its error 1 - score. Points without the measure are left out, and those of error 0, which
    has no logarithm. In place of the loss of bases that cut texts differently it is bits per byte. Raises TableError, one line,
    where the rest cannot carry a law.
    """
    if name in PER_TOKEN and (reason := incomparable(table)):
        if name != "loss":
            raise TableError(f"target {name!r}: {reason}; ask for {BITS_PER_BYTE!r}")
        return replace(targeted(table, BITS_PER_BYTE), instead=f"{reason}; {BITS_PER_BYTE} is taken in place of the loss")
    if name == "loss":
        _demand_loss(table)
        return Target(name, table, {})
    asked = name.removeprefix(ERROR_OF).strip()
    column = column_of(asked, table.columns)
    _demand(table, name, column)
    as_error = name.startswith(ERROR_OF) or is_score(column)
    shown = ERROR_OF + column if as_error else column
    values_M = 1 - table[column] if as_error else table[column]
    absent_M, perfect_M = ~np.isfinite(values_M), (values_M == 0) & as_error
    used = replace(table, columns={**table.columns, "loss": values_M}).where(~absent_M & ~perfect_M)
    _demand_fall(used, shown)
    reasons = {f"no {column}": int(absent_M.sum()), f"{column} is 1": int(perfect_M.sum())}
    bounded = as_error and bool(used["loss"].max() <= 1)
    found = f"column {column!r} was read as {asked}" if column != asked else ""
    return Target(shown, used, {reason: count for reason, count in reasons.items() if count}, bounded, found)


def value_of(point: JsonMapping, name: str) -> float:
    """One point's value of a fitted target (the `name` of a Target), in the target's own unit: of "1 - f1" it is 1 - f1.

    `point` is a row with its metrics as columns. Raises TableError where it does not hold the measure.
    """
    column = name.removeprefix(ERROR_OF).strip()
    if point.get(column) is None:
        raise TableError(unknown("target", column, (key for key, value in point.items() if isinstance(value, float))))
    value = float(point[column])
    return 1 - value if name.startswith(ERROR_OF) else value


@dataclass(frozen=True)
class Score:
    """A prediction of an error 1 - score, told as the score itself, larger being better."""

    name: str
    predicted: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, target: str, predicted: float, interval: Sequence[float]) -> Score | None:
        """None for a target that is no error of a score."""
        if not target.startswith(ERROR_OF):
            return None
        return cls(target.removeprefix(ERROR_OF), 1 - predicted, (1 - interval[1], 1 - interval[0]))

    def to_json(self) -> JsonObject:
        return {"name": self.name, "predicted": self.predicted, "interval": list(self.interval)}


def value_words(target: str, value: float) -> str:
    """A value of a fitted target as people speak of it: the score itself where the target is its error."""
    return f"{target.removeprefix(ERROR_OF)} {1 - value:.4g}" if target.startswith(ERROR_OF) else f"{value:.4g}"


def _demand_loss(table: Table) -> None:
    """Raises TableError where there is no loss, or one that is a score: more of it is better, and a law falls."""
    scores = [name for name, values in table.columns.items() if values.dtype == float and is_score(name)]
    if "loss" not in table:
        raise TableError(
            f"the table has no loss; ask for another measure of it with --target ({', '.join(scores) or 'none known'})"
        )
    for name in scores:
        if np.array_equal(table[name], table["loss"], equal_nan=True):
            raise TableError(f"the loss is column {name!r}, a score: more of it is better; ask for --target {name} instead")


def _demand(table: Table, name: str, column: str) -> None:
    numbers = [found for found, values in table.columns.items() if values.dtype == float]
    if column in table and (wrong := no_number(table[column])) is not None:
        raise TableError(f"target {column!r} must hold numbers; it holds {wrong}")
    if column not in numbers:
        raise TableError(unknown("target", column, filter(is_known_measure, numbers)))
    if name.startswith(ERROR_OF):
        return
    if not is_known_measure(column):
        raise TableError(
            f"target {column!r}: whether more of it is better is not known; ask for {ERROR_OF + column!r},"
            f" or for --map loss={column} where less is better"
        )
    if larger_is_better(column) and not is_score(column):
        raise TableError(f"target {column!r} grows without an end; a law falls to a floor (fit the loss, or reward_accuracy)")


def _demand_fall(used: Table, shown: str) -> None:
    values_M = used["loss"]
    if not len(values_M):
        raise TableError(f"target {shown!r}: no point has a value that can be fitted")
    if shown.startswith(ERROR_OF) and 1 < 1 - values_M.min() <= 100 and values_M.max() <= 1:
        raise TableError(f"target {shown!r}: its score goes up to {1 - values_M.min():g}; divide per cent by 100")
    if values_M.min() <= 0:
        raise TableError(f"target {shown!r} must be positive; its smallest value is {values_M.min():g}")
    if np.ptp(values_M) == 0:
        raise TableError(f"target {shown!r} is {values_M[0]:g} at every point; there is nothing to fit")
