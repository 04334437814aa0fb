"""The page's tables: methods, alternatives, the law's parameters, the laws that competed, and the runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from isolora.fit import Fit
from isolora.fit.remarks import assumed
from isolora.json_types import JsonMapping, JsonObject
from isolora.report import wording as words
from isolora.report.cells import Cell
from isolora.report.study_report import StudyReport, key_of
from isolora.report.trajectories import Key, Trajectory
from isolora.store import state_name

MOST_RUNS = 600
"""Rows of the table of runs: those with the best loss, and every run that did not end well, come first."""


@dataclass(frozen=True)
class Entry:
    """A cell of a table: what it sorts by, what it shows, and how."""

    value: Any
    shown: str
    kind: str = ""


@dataclass(frozen=True)
class Row:
    entries: tuple[Entry, ...]
    chosen: bool = False


@dataclass(frozen=True)
class Listing:
    """A table with its words; names in `right` are columns of numbers, set to the right."""

    key: str
    short: str
    title: str
    caption: str
    columns: tuple[str, ...]
    right: tuple[str, ...]
    rows: tuple[Row, ...]
    tall: bool = False
    formula: Any = ""

    def without_gaps(self) -> Listing:
        """The same without the columns that hold nothing in any row: a phone has no room for dashes."""
        kept = [k for k in range(len(self.columns)) if not self.rows or any(row.entries[k].value != "" for row in self.rows)]
        rows = tuple(replace(row, entries=tuple(row.entries[k] for k in kept)) for row in self.rows)
        return replace(self, columns=tuple(self.columns[k] for k in kept), rows=rows)


def entry(value: object, shown: str | None = None, kind: str = "") -> Entry:
    """A missing value shows as a dash and sorts last."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Entry("", "–", kind)
    return Entry(value, str(value) if shown is None else shown, kind)


def law(study: StudyReport) -> Listing | None:
    fit = study.fit
    if fit is None:
        return None
    pairs = zip(fit.parameters.items(), fit.intervals.values(), strict=True)
    rows = [
        Row((entry(name, kind="code"), *(entry(x, words.parameter(x)) for x in (value, *ends)))) for (name, value), ends in pairs
    ]
    said = " ".join(f"{sentence[:1].upper()}{sentence[1:]}." for sentence in assumed(fit))
    caption = (
        f"{fit.law} ({fit.shape.citation}), fitted to {fit.points} points of {fit.runs} runs from {words.count(fit.cut)} "
        f"{fit.unit_of_cut} on, with n for the frozen base's non-embedding weights, d for tokens and p for trained weights; "
        "the intervals come from refits to reweighed runs, since points of one run are not independent."
        + (f" {said}" if said else "")
    )
    columns = ("parameter", "estimate", "95 % from", "95 % to")
    formula = words.formula_html(fit.shape.formula)
    return Listing("law", "The law", "The law", caption, columns, columns[1:], tuple(rows), formula=formula)


def candidates(study: StudyReport) -> Listing | None:
    """Of each law that competed its best lower cut, best first; the chosen one is marked."""
    fit = study.fit
    if fit is None or not fit.candidates:
        return None
    judged = any("error" in row for row in fit.candidates)
    score = "error" if judged else "objective"
    shown = {str(row["law"]): row for row in sorted(fit.candidates, key=lambda row: -float(row[score]))}
    rows = sorted(shown.values(), key=lambda row: float(row[score]))
    predicted = (
        "Each law was fitted without the largest budgets and judged by how well it predicted them (its best lower cut is shown, "
        f"{len(fit.candidates)} pairs were tried); the simplest of those that the best does not clearly beat is chosen."
    )
    caption = predicted if judged else "Nothing was held out; laws are compared by their objective and number of parameters."
    columns = ("law", "fitted from, tokens", "parameters", "error on held-out budgets" if judged else "objective")
    listed = tuple(_candidate(row, score, fit) for row in rows)
    return Listing("candidates", "Candidates", "Candidates", caption, columns, columns[1:], listed)


def _candidate(row: JsonMapping, score: str, fit: Fit) -> Row:
    value = float(row[score])
    shown = words.percent(value) if score == "error" else words.parameter(value)
    cells = (entry(row["law"]), entry(row["cut"], words.count(row["cut"])), entry(row["parameters"]), entry(value, shown))
    return Row(cells, chosen=row["law"] == fit.law)


def alternatives(study: StudyReport) -> Listing | None:
    """What else the recommended budget buys, best first; None where nothing is recommended."""
    plan = study.recommendation
    if plan is None or not plan.alternatives:
        return None
    flops = words.flops_in_words(plan.flops)
    caption = (
        f"What {flops} FLOPs buy with each choice. The recommendation does best even with some bad luck; "
        "of ranks that the law cannot tell apart it takes the smallest, which costs less memory and forgets less."
    )
    columns = ("model", "method", "rank", "tokens", "time", f"predicted {study.measured_name}", "95 % interval")
    rows = tuple(_alternative(study, row, key_of(plan)) for row in plan.alternatives)
    listed = Listing("alternatives", "Alternatives", "What else the budget buys", caption, columns, columns[2:], rows)
    return listed.without_gaps()


def _alternative(study: StudyReport, row: JsonMapping, chosen: Key) -> Row:
    predicted, low, high = study.told(row["predicted_loss"], *row["interval"])
    rank, seconds = row["rank"] or None, row["seconds"]
    cells = (
        entry(row["model"]),
        entry(row["method"] or None),
        entry(rank),
        entry(row["tokens"], words.count(row["tokens"])),
        entry(seconds, None if seconds is None else words.time_in_words(seconds)),
        entry(predicted, f"{predicted:.3f}"),
        entry(high - low, f"{low:.3f} to {high:.3f}"),
    )
    return Row(cells, chosen=(row["model"], row["method"], rank) == chosen)


_METHOD_NUMBERS = ("± over seeds", "seeds", "tokens", "FLOPs", "time")


def method_rows(study: StudyReport) -> Listing | None:
    """Every cell at its best rate, best first; None where there is one method and one rate."""
    if len(study.families) < 2 and not any(cell.tried for cell in study.cells):
        return None
    caption = (
        "Every base model, method and rank at its best learning rate, best first. "
        "± is half the range over seeds; ← and → mark a best rate that is the lowest or highest tried."
    )
    rows = tuple(_cell(study, cell, first=index == 0) for index, cell in enumerate(study.cells))
    numbers = ("learning rate", study.measured_name, *_METHOD_NUMBERS)
    columns = ("model", "adapter", *numbers)
    listed = Listing("cells", "Choices", "Every choice at its best", caption, columns, numbers, rows, tall=len(rows) > 20)
    return listed.without_gaps()


def _cell(study: StudyReport, cell: Cell, first: bool) -> Row:
    end = cell.ends[0]
    arrow = {"lowest": "← ", "highest": "→ "}.get(cell.edge, "")
    seconds = study.seconds.get(end.run)
    cells = (
        entry(cell.model),
        entry(cell.adapter),
        entry(end.learning_rate, f"{arrow}{end.learning_rate:.3g}"),
        entry(study.told(cell.loss)[0], f"{study.told(cell.loss)[0]:.4f}"),
        entry(cell.spread, f"{cell.spread:.4f}"),
        entry(len(cell.ends)),
        entry(float(end.tokens[-1]), words.count(float(end.tokens[-1]))),
        entry(float(end.flops[-1]), words.flops_in_words(float(end.flops[-1]))),
        entry(seconds, None if seconds is None else words.time_in_words(seconds)),
    )
    return Row(cells, chosen=first)


_RUN_NUMBERS = ("tokens", "FLOPs", "time", "seed")


def runs(study: StudyReport) -> Listing:
    """A row for each run of the store; for a table that is no store, a row for each trajectory."""
    curves = {curve.run: curve for curve in [*study.curves, *study.proof]}
    stored = list(study.runs) or [_as_stored(curve) for curve in curves.values()]
    diverged = sum(row["state"] == "DIVERGED" for row in stored)
    told = {0: "none diverged", 1: "one diverged and was stopped"}.get(diverged, f"{diverged} diverged and were stopped")
    shown = stored if len(stored) <= MOST_RUNS else sorted(stored, key=lambda row: _rank(row, curves))[:MOST_RUNS]
    cut = "" if len(shown) == len(stored) else f" The {len(shown)} that ended badly or best are shown."
    caption = f"Every run with its state and its last evaluation: {len(stored)} in all, {told}.{cut}"
    numbers = ("rank", "learning rate", study.measured_name, *_RUN_NUMBERS)
    columns = ("state", "stage", "model", "method", *numbers, "run")
    rows = tuple(_run(row, curves.get(str(row["run"])), study) for row in shown)
    return Listing("runs", "Runs", "Runs", caption, columns, numbers, rows, tall=True).without_gaps()


def _rank(row: JsonMapping, curves: Mapping[str, Trajectory]) -> tuple[bool, float]:
    curve = curves.get(str(row["run"]))
    return row["state"] == "DONE", math.inf if curve is None else float(curve.loss[-1])


def _as_stored(curve: Trajectory) -> JsonObject:
    known = {"run": curve.run, "model": curve.model, "method": curve.method or None, "rank": curve.rank}
    rate = None if math.isnan(curve.learning_rate) else curve.learning_rate
    return {**known, "stage": curve.stage or None, "state": "DONE", "learning_rate": rate}


def _run(row: JsonMapping, curve: Trajectory | None, study: StudyReport) -> Row:
    rate = row.get("learning_rate")
    names: Sequence[Entry] = (
        entry(row["state"], state_name(row["state"]), kind="state"),
        *(entry(row.get(name)) for name in ("stage", "model", "method")),
    )
    numbers = (entry(row.get("rank")), entry(rate, None if rate is None else f"{rate:.3g}"))
    reason = row.get("reason") or ""
    run = Entry(row["run"], str(row["run"]), f"run {reason}".strip())
    return Row((*names, *numbers, *_end(curve, study), entry(row.get("seed")), run))


def _end(curve: Trajectory | None, study: StudyReport) -> tuple[Entry, ...]:
    """Loss, tokens, FLOPs and time at the last evaluation."""
    if curve is None:
        return (entry(None),) * 4
    tokens, flops, (value,) = float(curve.tokens[-1]), float(curve.flops[-1]), study.told(float(curve.loss[-1]))
    seconds = study.seconds.get(curve.run)
    return (
        entry(value, f"{value:.4f}"),
        entry(tokens, f"{tokens:,.0f}"),
        entry(flops, words.flops_in_words(flops)),
        entry(seconds, None if seconds is None else words.time_in_words(seconds)),
    )


_NOT_A_PLACE = ("checks", "spent", "rows_left_out")
"""What a store notes of a run beside where it took place."""


def environment_rows(study: StudyReport) -> list[tuple[str, str]]:
    """Names and values, nested ones spread out."""
    places = {name: value for name, value in study.places.items() if value is not None and name not in _NOT_A_PLACE}
    return [(name.replace("_", " "), _place(value)) for name, value in places.items()]


def _place(value: object) -> str:
    return ", ".join(f"{name} {text}" for name, text in value.items()) if isinstance(value, Mapping) else str(value)
