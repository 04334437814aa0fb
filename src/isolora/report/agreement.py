"""Predicted against measured: the points that the law was fitted to, those held out of the fit, and the proof."""

from __future__ import annotations

from typing import Any

from isolora.report import palette
from isolora.report.marks import extent, measured_trace
from isolora.report.palette import FAINT, INK, PAPER, Figure, faded, label
from isolora.report.study import StudyReport
from isolora.report.trajectories import Choice, Trajectory

_BAND = 0.02


def figure(study: StudyReport) -> Figure:
    traces = [*_fitted(study), *_held_out(study)]
    if study.verification is not None:
        proof = study.verification
        mark = {**measured_trace(proof.predicted, proof.measured), "name": "verification", "legend": "legend"}
        interval = [proof.interval[1] - proof.predicted], [proof.predicted - proof.interval[0]]
        spread = {"type": "data", "array": interval[0], "arrayminus": interval[1], "color": INK, "thickness": 1.2, "width": 4}
        traces.append(
            {**mark, "error_x": spread, "hovertemplate": "verification: predicted %{x:.3f}, measured %{y:.3f}<extra></extra>"}
        )
    ends = [*extent(traces, "x"), *extent(traces, "y")]
    low, high = min(ends) * 0.98, max(ends) * 1.01
    x = palette.log_axis("predicted loss, nats per token", low, high, palette.loss_ticks(low, high), margin=0.0)
    y = palette.log_axis("measured loss, nats per token", low, high, palette.loss_ticks(low, high), margin=0.0)
    layout = palette.layout(x, y, height=520)
    layout["margin"]["t"] = 56
    return {"data": [*_diagonal(low, high), *traces], "layout": layout}


def _diagonal(low: float, high: float) -> list[dict[str, Any]]:
    """Perfect agreement, and 2 % to either side of it."""
    line = {"type": "scatter", "mode": "lines", "x": [low, high], "y": [low, high], "showlegend": False, "hoverinfo": "skip"}
    strip = palette.band(
        [low, high],
        [low * (1 - _BAND), high * (1 - _BAND)],
        [low * (1 + _BAND), high * (1 + _BAND)],
        faded(FAINT, 0.2),
        name="within 2 %",
        legendrank=2000,
    )
    return [strip, {**line, "line": {"color": FAINT, "width": 1}}]


def _fitted(study: StudyReport) -> list[dict[str, Any]]:
    by_model: dict[str, list[tuple[float, float]]] = {model: [] for model in study.models}
    for run, choice in measured_choices(study):
        chosen_M = run.tokens >= study.fit.cut
        predicted_M = study.fit.predict(choice.columns(run.tokens[chosen_M]))
        by_model[run.model] += zip(predicted_M.tolist(), run.loss[chosen_M].tolist(), strict=True)
    return [
        _points(points, label(model), {"color": faded(study.colours[model], 0.75), "size": 6})
        for model, points in by_model.items()
        if points
    ]


def _held_out(study: StudyReport) -> list[dict[str, Any]]:
    points = held_out(study)
    marker = {"color": PAPER, "size": 8, "symbol": "square", "line": {"color": INK, "width": 1.5}}
    return [_points(points, "held out of the fit", marker)] if points else []


def held_out(study: StudyReport) -> list[tuple[float, float]]:
    """(predicted, measured) of the largest budgets, foretold by the same law from the smaller ones alone."""
    return [(point["predicted"], point["measured"]) for point in study.fit.holdout.get("points", ())]


def measured_choices(study: StudyReport) -> list[tuple[Trajectory, Choice]]:
    """The run that stands for each choice, with the choice."""
    known = {choice.key: choice for choice in study.choices}
    return [(run, known[run.key]) for run in study.fitted]


def _points(points: list[tuple[float, float]], name: str, marker: dict[str, Any]) -> dict[str, Any]:
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
