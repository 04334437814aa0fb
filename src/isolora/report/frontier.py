"""The compute-optimal frontier: the best loss that each budget can buy, and with which base model."""

from __future__ import annotations

from typing import Any

import numpy as np

from isolora.laws import Array
from isolora.report import palette, words
from isolora.report.loss_curves import extent, measured_trace, prediction_trace, proof_trace
from isolora.report.palette import SOFT, Figure, faded, label
from isolora.report.study import StudyReport
from isolora.report.trajectories import Choice

_SAMPLES = 160


def figure(study: StudyReport) -> Figure:
    flops_M = _budgets(study)
    loss_KM = np.stack([_law_at(study, choice, flops_M) for choice in study.choices])
    winner_M = loss_KM.argmin(axis=0)
    traces = [_interval(study, flops_M, winner_M), *_measured(study), *_segments(study, flops_M, loss_KM, winner_M), *_marks(study)]
    budgets, losses = extent(traces, "x"), extent(traces, "y")
    x = palette.log_axis("training compute, FLOPs", *budgets, palette.decade_ticks(*budgets))
    y = palette.log_axis("held-out loss, nats per token", *losses, palette.loss_ticks(*losses), margin=0.05)
    layout = palette.layout(x, y, height=480, legend3=palette.legend(0.03, x=0.02, yanchor="bottom", orientation="v"))
    return {"data": traces, "layout": {**layout, **_evidence_line(study)}}


def _budgets(study: StudyReport) -> Array:
    """From the budget at which the smallest run passes the law's lower cut to the recommendation, or to twice the largest run."""
    prices = [choice.flops_per_token for choice in study.choices]
    spent = [run.flops_M[-1] for run in study.curves]
    last = max(study.recommendation.flops, *spent) if study.recommendation else 2 * max(spent)
    first = max(study.fit.cut * min(prices), min(run.flops_M[0] for run in study.curves))
    return np.geomspace(first, last, _SAMPLES)


def _law_at(study: StudyReport, choice: Choice, flops_M: Array) -> Array:
    """The law at tokens that the budget buys; infinite below its lower cut, where it says nothing."""
    tokens_M = flops_M / choice.flops_per_token
    loss_M = study.fit.predict(choice.columns(tokens_M))
    return np.where(tokens_M >= 0.999 * study.fit.cut, loss_M, np.inf)


def _segments(study: StudyReport, flops_M: Array, loss_KM: Array, winner_M: Array) -> list[dict[str, Any]]:
    """The frontier, cut where the best base model changes, each piece in its model's colour."""
    model_M = [study.choices[int(winner)].model for winner in winner_M]
    changes = [index for index in range(1, len(model_M)) if model_M[index] != model_M[index - 1]]
    named: set[str] = set()
    traces = []
    for first, last in zip([0, *changes], [*changes, len(model_M) - 1], strict=True):
        model = model_M[first]
        part = slice(first, last + 1)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": flops_M[part].tolist(),
                "y": loss_KM.min(axis=0)[part].tolist(),
                "text": [label(study.choices[int(winner)].name) for winner in winner_M[part]],
                "name": f"best: {label(model)}",
                "showlegend": model not in named,
                "line": {"color": study.colours[model], "width": 3.5},
                "hovertemplate": "%{text}<br>%{x:.2e} FLOPs, loss %{y:.3f}<extra></extra>",
            }
        )
        named.add(model)
    return traces


def _interval(study: StudyReport, flops_M: Array, winner_M: Array) -> dict[str, Any]:
    """The law's 95 % interval along the frontier."""
    chosen = [study.choices[int(winner)] for winner in winner_M]
    tokens_M = flops_M / np.array([choice.flops_per_token for choice in chosen])
    rows = [choice.columns(np.array([tokens])) for choice, tokens in zip(chosen, tokens_M, strict=True)]
    columns = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    low_M, high_M = study.fit.interval(columns)
    return palette.band(flops_M.tolist(), low_M.tolist(), high_M.tolist(), faded(SOFT, 0.16), name="95 % interval")


def _measured(study: StudyReport) -> list[dict[str, Any]]:
    return [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": run.flops_M.tolist(),
            "y": run.loss_M.tolist(),
            "showlegend": False,
            "line": {"color": faded(study.colours[run.model], 0.3), "width": 1},
            "marker": {"color": faded(study.colours[run.model], 0.45), "size": 4.5},
            "hovertemplate": f"{label(run.model)}<br>%{{x:.2e}} FLOPs, measured %{{y:.3f}}<extra></extra>",
        }
        for run in study.fitted
    ]


def _marks(study: StudyReport) -> list[dict[str, Any]]:
    plan, proof = study.recommendation, study.verification
    traces = [proof_trace(run.flops_M, run.loss_M) for run in study.proof]
    for trace in traces:
        trace["hovertemplate"] = "verification run<br>%{x:.2e} FLOPs, loss %{y:.3f}<extra></extra>"
    if plan is not None:
        traces.append(prediction_trace(plan.flops, plan.predicted_loss, plan.interval))
    if proof is not None:
        traces.append(measured_trace(proof.flops, proof.measured))
    return traces


def _evidence_line(study: StudyReport) -> dict[str, Any]:
    """Where the evidence ends: the largest compute of a run that the law has seen."""
    largest = max(run.flops_M[-1] for run in study.curves)
    note = {
        "x": float(np.log10(largest)),
        "yref": "paper",
        "y": 1,
        "xanchor": "right",
        "yanchor": "top",
        "xshift": -6,
        "showarrow": False,
        "text": f"evidence ends at {words.flops(largest)} FLOPs",
        "font": {"size": 12, "color": SOFT},
    }
    return {"shapes": [palette.upright(largest)], "annotations": [note]}
