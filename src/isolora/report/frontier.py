"""The compute-optimal frontier: the best loss that each budget can buy, and with which base model."""

from __future__ import annotations

from typing import Any

import numpy as np

from isolora.laws import Array
from isolora.plan import frontier
from isolora.report import formats as words
from isolora.report import palette
from isolora.report.marks import extent, measured_trace, prediction_trace, proof_trace
from isolora.report.palette import SOFT, Figure, faded, label
from isolora.report.study import StudyReport
from isolora.report.trajectories import named

_SAMPLES = 80


def figure(study: StudyReport) -> Figure | None:
    """None for a table that has no options to choose from."""
    if not study.options:
        return None
    best = frontier(study.fit, study.options, _budgets(study))
    traces = [_interval(best), *_measured(study), *_segments(study, best), *_marks(study)]
    budgets, losses = extent(traces, "x"), extent(traces, "y")
    x = palette.log_axis("training compute, FLOPs", *budgets, palette.decade_ticks(*budgets))
    y = palette.log_axis("held-out loss, nats per token", *losses, palette.loss_ticks(*losses), margin=0.05)
    layout = palette.layout(x, y, height=500, legend3=palette.corner())
    note = palette.note(study.largest_flops, f"evidence ends at {words.flops(study.largest_flops)} FLOPs", side="left")
    return {"data": traces, "layout": {**layout, "shapes": [palette.upright(study.largest_flops)], "annotations": [note]}}


def _budgets(study: StudyReport) -> Array:
    """From where the cheapest option passes the law's lower cut to the recommendation, or to twice the largest run."""
    first = study.fit.cut * min(option.flops_per_token for option in study.options)
    plan = study.recommendation
    return np.geomspace(first, max(plan.flops, study.largest_flops) if plan else 2 * study.largest_flops, _SAMPLES)


def _segments(study: StudyReport, best: dict[str, Array]) -> list[dict[str, Any]]:
    """The frontier, cut where the best base model changes, each piece in its model's colour."""
    chosen = [study.options[int(index)] for index in best["option"]]
    changes = [index for index in range(1, len(chosen)) if chosen[index].model != chosen[index - 1].model]
    segments = []
    for first, last in zip([0, *changes], [*changes, len(chosen) - 1], strict=True):
        part, model = slice(first, last + 1), chosen[first].model
        segments.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": best["flops"][part].tolist(),
                "y": best["loss"][part].tolist(),
                "text": [label(named(option.model, option.method, option.rank or None)) for option in chosen[part]],
                "name": f"best: {label(model)}",
                "showlegend": all(model != chosen[earlier].model for earlier in range(first)),
                "line": {"color": study.colours[model], "width": 3.5},
                "hovertemplate": "%{text}<br>%{x:.2e} FLOPs, loss %{y:.3f}<extra></extra>",
            }
        )
    return segments


def _interval(best: dict[str, Array]) -> dict[str, Any]:
    low, high = best["low"].tolist(), best["high"].tolist()
    return palette.band(best["flops"].tolist(), low, high, faded(SOFT, 0.16), name="95 % interval")


def _measured(study: StudyReport) -> list[dict[str, Any]]:
    return [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": run.flops.tolist(),
            "y": run.loss.tolist(),
            "showlegend": False,
            "line": {"color": faded(study.colours[run.model], 0.25), "width": 1},
            "marker": {"color": faded(study.colours[run.model], 0.45), "size": 4},
            "hovertemplate": f"{label(run.name)}<br>%{{x:.2e}} FLOPs, measured %{{y:.3f}}<extra></extra>",
        }
        for run in study.fitted
    ]


def _marks(study: StudyReport) -> list[dict[str, Any]]:
    traces = [proof_trace(run.flops, run.loss) for run in study.proof]
    if study.recommendation is not None:
        plan = study.recommendation
        traces.append(prediction_trace(plan.flops, plan.predicted_loss, plan.interval))
    if study.verification is not None:
        traces.append(measured_trace(study.verification.flops, study.verification.measured))
    return traces
