"""The compute-optimal frontier: the best loss that each budget can buy, and with which base model."""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from isolora.json_types import JsonObject
from isolora.laws import Array
from isolora.plan import frontier
from isolora.report import axes
from isolora.report import wording as words
from isolora.report.axes import label
from isolora.report.marks import extent, loss_frame, measured_trace, prediction_trace, proof_trace
from isolora.report.palette import INK, SOFT, Figure, faded
from isolora.report.rate_cells import MOST_NAMES
from isolora.report.study_report import StudyReport
from isolora.report.trajectories import Trajectory, trajectory_name

_SAMPLES = 80
_MOST_RUNS = 400


def figure(study: StudyReport) -> Figure | None:
    """Without a law or options only what was measured; None where FLOPs are unknown or all about the same."""
    priced = "flops" in study.table or "body_parameters" in study.table
    spent = [float(flops) for run in study.fitted for flops in run.flops] if priced else []
    if not spent or max(spent) < 1.05 * min(spent):
        return None
    predicted = study.fit is not None and bool(study.options)
    traces = [*_measured(study), *(_by_law(study) if predicted else [*_envelope(study), *_names(study)]), *_marks(study)]
    budgets, (losses, above) = extent(traces, "x"), loss_frame(traces)
    x = axes.log_axis("training compute, FLOPs", *budgets, axes.decade_ticks(*budgets))
    layout = axes.layout(x, axes.loss_axis(study.measure, *losses), height=500, legend3=axes.corner(), annotations=above)
    if predicted:
        words_ = f"evidence ends at {words.flops_in_words(study.largest_flops)} FLOPs"
        layout["shapes"] = [axes.upright(study.largest_flops)]
        layout["annotations"] = [*above, axes.side_note(study.largest_flops, words_, "left", 0.94 if above else 1.0)]
    return {"data": traces, "layout": layout}


def _by_law(study: StudyReport) -> list[JsonObject]:
    assert study.fit is not None
    best = frontier(study.fit, study.options, _budgets(study))
    return [_interval(best), *_segments(study, best)]


def _envelope(study: StudyReport) -> list[JsonObject]:
    """The lowest loss measured for so much compute or less, as stairs."""
    points = sorted((float(x), float(y)) for run in study.fitted for x, y in zip(run.flops, run.loss, strict=True))
    lowest = accumulate((loss for _, loss in points), min)
    stairs = [point for point, low in zip(points, lowest, strict=True) if point[1] <= low]
    x, y = [point[0] for point in stairs] + [points[-1][0]], [point[1] for point in stairs] + [stairs[-1][1]]
    line = {"color": INK, "width": 2, "shape": "hv"}
    return [{"type": "scatter", "mode": "lines", "x": x, "y": y, "name": "best measured so far", "line": line}]


def _budgets(study: StudyReport) -> Array:
    """From where the cheapest option passes the law's lower cut to the recommendation, or to twice the largest run."""
    first = max(study.cut, 1.0) * min(option.flops_per_token for option in study.options)
    plan = study.recommendation
    last = max(plan.flops, study.largest_flops) if plan else 2 * study.largest_flops
    return np.geomspace(min(first, last / 2), last, _SAMPLES)


def _segments(study: StudyReport, best: dict[str, Array]) -> list[JsonObject]:
    """The frontier, cut where the best base model changes, each piece in its model's colour."""
    chosen = [study.options[int(index)] for index in best["option"]]
    few = len({option.model for option in chosen}) <= MOST_NAMES
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
                "text": [label(trajectory_name(option.model, option.method, option.rank or None)) for option in chosen[part]],
                "name": f"best: {label(model)}",
                "showlegend": few and all(model != chosen[earlier].model for earlier in range(first)),
                "line": {"color": study.colours[model], "width": 3.5},
                "hovertemplate": f"%{{text}}<br>%{{x:.2e}} FLOPs, {label(study.target)} %{{y:.3f}}<extra></extra>",
            }
        )
    return segments


def _interval(best: dict[str, Array]) -> JsonObject:
    low, high = best["low"].tolist(), best["high"].tolist()
    return axes.band(best["flops"].tolist(), low, high, faded(SOFT, 0.16), name="95 % interval")


def _measured(study: StudyReport) -> list[JsonObject]:
    return [_run(study, run) for run in study.fitted[:_MOST_RUNS]]


def _run(study: StudyReport, run: Trajectory) -> JsonObject:
    colour, symbol = study.look(run)
    alone = len(run.flops) == 1
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": run.flops.tolist(),
        "y": run.loss.tolist(),
        "showlegend": False,
        "line": {"color": faded(colour, 0.25), "width": 1},
        "marker": {"color": faded(colour, 0.9 if alone else 0.45), "symbol": symbol, "size": 8 if alone else 4},
        "hovertemplate": f"{label(study.called(run))}<br>%{{x:.2e}} FLOPs, measured %{{y:.3f}}<extra></extra>",
    }


def _names(study: StudyReport) -> list[JsonObject]:
    """Rows of the legend for the measured points, where there is no law to name them."""
    if len(study.families) > 1:
        looks = {run.family: study.look(run) for run in study.fitted}
    else:
        looks = {run.model: study.look(run) for run in study.fitted}
    shown = looks if len(looks) <= MOST_NAMES else {}
    return [
        axes.legend_row(label(name), marker={"color": colour, "symbol": symbol, "size": 8})
        for name, (colour, symbol) in shown.items()
    ]


def _marks(study: StudyReport) -> list[JsonObject]:
    traces = [proof_trace(run.flops, run.loss, study.target) for run in study.proof]
    if study.recommendation is not None:
        plan = study.recommendation
        traces.append(prediction_trace(plan.flops, plan.predicted_loss, plan.interval))
    if study.verification is not None:
        traces.append(measured_trace(study.verification.flops, study.verification.measured))
    return traces
