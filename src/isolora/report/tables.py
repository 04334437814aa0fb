"""The page's tables: parameters with their intervals, the laws that competed, the runs, and where they took place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from isolora.report import formats as words
from isolora.report.study import StudyReport, key_of
from isolora.report.trajectories import Key, Trajectory

Row = dict[str, Any]

_RIGHT = ("rank", "learning rate", "seed", "tokens", "FLOPs", "time", "loss")
_COLUMNS = ("state", "stage", "model", "method", *_RIGHT, "run")


def law(study: StudyReport) -> Row:
    fit = study.fit
    rows = [
        {"name": name, "value": words.parameter(value), "low": words.parameter(low), "high": words.parameter(high)}
        for (name, value), (low, high) in zip(fit.parameters.items(), fit.intervals.values(), strict=True)
    ]
    caption = (
        f"{fit.law} ({fit.shape.citation}), fitted to {fit.points} points of {fit.runs} runs from {words.count(fit.cut)} tokens "
        "on, with n for the frozen base's non-embedding weights, d for tokens and p for trained weights; "
        "the intervals come from refits to reweighed runs, since points of one run are not independent."
    )
    return {"caption": caption, "formula": words.formula(fit.shape.formula), "rows": rows}


def candidates(study: StudyReport) -> Row:
    """Of each law that competed its best lower cut, best first; the chosen one is marked."""
    fit = study.fit
    judged = any("error" in row for row in fit.candidates)
    score = "error" if judged else "objective"
    shown = {str(row["law"]): row for row in sorted(fit.candidates, key=lambda row: -float(row[score]))}
    rows = sorted(shown.values(), key=lambda row: float(row[score]))
    foretold = (
        f"Each law was fitted without the largest budgets and judged by how well it foretold them (its best lower cut is shown, "
        f"{len(fit.candidates)} pairs were tried); the simplest of those that the best does not clearly beat is chosen."
    )
    caption = (
        foretold if judged else "Nothing was held out; the laws are compared by their own objective and number of parameters."
    )
    return {
        "caption": caption,
        "measure": "error on held-out budgets" if judged else "objective",
        "rows": [_candidate(row, score, fit.law) for row in rows],
    }


def _candidate(row: Mapping[str, Any], score: str, chosen: str) -> Row:
    value = float(row[score])
    return {
        "law": row["law"],
        "cut": row["cut"],
        "cut_words": words.count(row["cut"]),
        "parameters": row["parameters"],
        "score": value,
        "score_words": words.percent(value) if score == "error" else words.parameter(value),
        "chosen": row["law"] == chosen,
    }


def alternatives(study: StudyReport) -> Row | None:
    """What else the recommended budget buys, best first; None where nothing is recommended."""
    plan = study.recommendation
    if plan is None or not plan.alternatives:
        return None
    caption = (
        f"What {words.flops(plan.flops)} FLOPs buy with each choice. The recommendation does best even with some bad luck; "
        "of ranks that the law cannot tell apart it takes the smallest, which costs less memory and forgets less."
    )
    return {"caption": caption, "rows": [_alternative(row, key_of(plan)) for row in plan.alternatives]}


def _alternative(row: Mapping[str, Any], chosen: Key) -> Row:
    low, high = row["interval"]
    rank = row["rank"] or None
    return {
        "model": row["model"],
        "method": row["method"],
        "rank": rank,
        "tokens": row["tokens"],
        "tokens_words": words.count(row["tokens"]),
        "seconds": row["seconds"],
        "seconds_words": None if row["seconds"] is None else words.duration(row["seconds"]),
        "loss": row["predicted_loss"],
        "loss_words": f"{row['predicted_loss']:.3f}",
        "width": high - low,
        "interval_words": f"{low:.3f} to {high:.3f}",
        "chosen": (row["model"], row["method"], rank) == chosen,
    }


def runs(study: StudyReport) -> Row:
    """A row for each run of the store; for a table that is no store, a row for each trajectory."""
    curves = {curve.run: curve for curve in [*study.curves, *study.proof]}
    stored = list(study.runs) or [_told(curve) for curve in curves.values()]
    rows = [_run(row, curves.get(str(row["run"])), study) for row in stored]
    diverged = sum(row["state"] == "DIVERGED" for row in rows)
    told = {0: "none diverged", 1: "one diverged and was stopped"}.get(diverged, f"{diverged} diverged and were stopped")
    caption = f"Every run with its state and its last evaluation: {len(rows)} in all, {told}. Click on a heading to sort."
    columns = [{"name": name, "right": name in _RIGHT} for name in _COLUMNS]
    return {"caption": caption, "columns": columns, "rows": rows}


def _told(curve: Trajectory) -> Row:
    known = {
        "run": curve.run,
        "model": curve.model,
        "method": curve.method or None,
        "rank": curve.rank,
        "stage": curve.stage or None,
        "state": "DONE",
    }
    return {**known, "learning_rate": None if math.isnan(curve.learning_rate) else curve.learning_rate}


def _run(row: Mapping[str, Any], curve: Trajectory | None, study: StudyReport) -> Row:
    rate = row.get("learning_rate")
    tokens, flops, loss, seconds = (None,) * 4
    if curve is not None:
        tokens, flops, loss = float(curve.tokens[-1]), float(curve.flops[-1]), float(curve.loss[-1])
        seconds = study.seconds.get(curve.run)
    names = ("run", "stage", "model", "method", "rank", "seed", "state")
    return {
        **{name: row.get(name) for name in names},
        "reason": row.get("reason") or None,
        "learning_rate": rate,
        "learning_rate_words": None if rate is None else f"{rate:g}",
        "tokens": tokens,
        "tokens_words": None if tokens is None else f"{tokens:,.0f}",
        "flops": flops,
        "flops_words": None if flops is None else words.flops(flops),
        "seconds": seconds,
        "seconds_words": None if seconds is None else words.duration(seconds),
        "loss": loss,
        "loss_words": None if loss is None else f"{loss:.4f}",
    }


def environment(study: StudyReport) -> list[tuple[str, str]]:
    """Names and values, nested ones spread out."""
    spread: list[tuple[str, str]] = []
    for name, value in study.places.items():
        if isinstance(value, Mapping):
            spread.append((name, ", ".join(f"{inner} {text}" for inner, text in value.items())))
        elif value is not None:
            spread.append((name, str(value)))
    return spread
