"""Predicted against measured: the points that the law was fitted to, those held out of the fit, and the proof."""

from __future__ import annotations

import numpy as np

from isolora.fit import Fit
from isolora.json_types import JsonObject
from isolora.report import axes
from isolora.report.axes import label
from isolora.report.marks import measured_trace, values
from isolora.report.palette import FAINT, INK, PAPER, Figure, faded
from isolora.report.rate_cells import MOST_NAMES
from isolora.report.study_report import StudyReport
from isolora.report.trajectories import Choice, Trajectory

_BAND = 0.02


def figure(study: StudyReport) -> Figure | None:
    """None for a study without a law."""
    if study.fit is None:
        return None
    traces = [*_fitted(study, study.fit), *_held_out(study)]
    if study.verification is not None:
        proof = study.verification
        mark = {**measured_trace(proof.predicted, proof.measured), "name": "verification", "legend": "legend"}
        interval = [proof.interval[1] - proof.predicted], [proof.predicted - proof.interval[0]]
        spread = {"type": "data", "array": interval[0], "arrayminus": interval[1], "color": INK, "thickness": 1.2, "width": 4}
        traces.append(
            {**mark, "error_x": spread, "hovertemplate": "verification: predicted %{x:.3f}, measured %{y:.3f}<extra></extra>"}
        )
    low, high = axes.frame([*values(traces, "x"), *values(traces, "y")], always=_verified(study))
    low, high = low * 0.99, high * 1.01
    unit = study.measure.replace("held-out ", "")
    x, y = (axes.loss_axis(f"{kind} {unit}", low, high, margin=0.0) for kind in ("predicted", "measured"))
    layout = axes.layout(x, y, height=520)
    layout["margin"]["t"] = 56
    return {"data": [*_diagonal(low, high), *traces], "layout": layout}


def _verified(study: StudyReport) -> list[float]:
    """What the frame must show: the verification with its interval."""
    proof = study.verification
    return [] if proof is None else [proof.predicted, proof.measured, *proof.interval]


def _diagonal(low: float, high: float) -> list[JsonObject]:
    """Perfect agreement, and 2 % to either side of it."""
    line = {"type": "scatter", "mode": "lines", "x": [low, high], "y": [low, high], "showlegend": False, "hoverinfo": "skip"}
    strip = axes.band(
        [low, high],
        [low * (1 - _BAND), high * (1 - _BAND)],
        [low * (1 + _BAND), high * (1 + _BAND)],
        faded(FAINT, 0.2),
        name="within 2 %",
        legendrank=2000,
    )
    return [strip, {**line, "line": {"color": FAINT, "width": 1}}]


def _fitted(study: StudyReport, fit: Fit) -> list[JsonObject]:
    by_model: dict[str, list[tuple[float, float]]] = {model: [] for model in study.models}
    runs = [(run, choice.columns(run.tokens[run.tokens >= fit.cut])) for run, choice in measured_choices(study)]
    if runs:  # all at once: a prediction for each of thousands of runs takes minutes
        columns = {name: np.concatenate([each[name] for _, each in runs]) for name in runs[0][1]}
        ends = np.cumsum([len(each["d"]) for _, each in runs])[:-1]
        for (run, _), predicted_M in zip(runs, np.split(fit.predict(columns), ends), strict=True):
            measured_M = run.loss[run.tokens >= fit.cut]
            by_model[run.model] += zip(predicted_M.tolist(), measured_M.tolist(), strict=True)
    named = len(by_model) <= MOST_NAMES
    return [
        {**_points(points, label(model), {"color": faded(study.colours[model], 0.75), "size": 6}), "showlegend": named}
        for model, points in by_model.items()
        if points
    ]


def _held_out(study: StudyReport) -> list[JsonObject]:
    points = held_out(study)
    marker = {"color": PAPER, "size": 8, "symbol": "square", "line": {"color": INK, "width": 1.5}}
    return [_points(points, "held out of the fit", marker)] if points else []


def held_out(study: StudyReport) -> list[tuple[float, float]]:
    """(predicted, measured) of the largest budgets, predicted by the same law from the smaller ones alone."""
    points = study.fit.holdout.get("points", ()) if study.fit else ()
    return [(point["predicted"], point["measured"]) for point in points]


def measured_choices(study: StudyReport) -> list[tuple[Trajectory, Choice]]:
    """The run that stands for each choice, with the choice."""
    known = {choice.key: choice for choice in study.choices}
    return [(run, known[run.key]) for run in study.fitted if run.key in known]


def _points(points: list[tuple[float, float]], name: str, marker: JsonObject) -> JsonObject:
    predicted, measured = zip(*points, strict=True)
    return {
        "type": "scatter",
        "mode": "markers",
        "x": list(predicted),
        "y": list(measured),
        "name": name,
        "marker": marker,
        "hovertemplate": "predicted %{x:.3f}, measured %{y:.3f}<extra>%{fullData.name}</extra>",
    }
