"""Iso-FLOP profiles: the same compute spent on smaller or larger base models, as measured and as the law has it."""

from __future__ import annotations

from typing import Any

import numpy as np

from isolora.plan import isoflop
from isolora.report import formats as words
from isolora.report import palette
from isolora.report.marks import extent, measured_trace, prediction_trace
from isolora.report.palette import ACCENT, BUDGET_RAMP, PAPER, SOFT, Figure, label
from isolora.report.study import StudyReport

_BUDGETS = 5


def figure(study: StudyReport) -> Figure | None:
    """None for a study of fewer than two sizes: there is nothing to trade then."""
    if len({option.body_parameters for option in study.options}) < 2:
        return None
    budgets = _budgets(study)
    traces = []
    for budget, colour in zip(budgets, palette.ramp(BUDGET_RAMP, len(budgets)), strict=True):
        traces += [_profile(study, budget, colour), _measured(study, budget, colour)]
    traces += _ahead(study)
    sizes, losses = extent(traces, "x"), extent(traces, "y")
    ticks = [(size, label(model)) for model, size in _sizes(study).items()]
    x = palette.log_axis("base model, by non-embedding weights", *sizes, ticks, margin=0.08)
    y = palette.log_axis("held-out loss, nats per token", *losses, palette.loss_ticks(*losses), margin=0.06)
    title = palette.legend(1.0, title={"text": "FLOPs ", "side": "left", "font": {"size": 12, "color": SOFT}})
    return {"data": traces, "layout": palette.layout(x, y, height=480, legend=title, legend3=palette.corner())}


def _sizes(study: StudyReport) -> dict[str, float]:
    """Non-embedding weights of each base model, smallest first."""
    sizes = {option.model: option.body_parameters for option in study.options}
    return {model: sizes[model] for model in study.models if model in sizes}


def _budgets(study: StudyReport) -> list[float]:
    """FLOPs, evenly spaced by their logarithm: from where the law holds for two models to where two were measured."""
    prices: dict[str, float] = {}
    ends: dict[str, float] = {}
    for option in study.options:
        prices[option.model] = min(option.flops_per_token, prices.get(option.model, np.inf))
        ends[option.model] = max(option.largest_flops, ends.get(option.model, 0.0))
    low, high = study.fit.cut * sorted(prices.values())[1], sorted(ends.values())[-2]
    return [float(budget) for budget in np.geomspace(min(low, high / 4), high, _BUDGETS)]


def _profile(study: StudyReport, budget: float, colour: str, **more: Any) -> dict[str, Any]:
    """The law at each base model's best adapter, as far down as it holds (tokens above its lower cut)."""
    found = isoflop(study.fit, study.options, budget)
    best: dict[float, float] = {}
    for size, tokens, loss in zip(found["body_parameters"], found["tokens"], found["loss"], strict=True):
        if tokens >= study.fit.cut:
            best[float(size)] = min(float(loss), best.get(float(size), np.inf))
    sizes = sorted(best)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": sizes,
        "y": [best[size] for size in sizes],
        "name": words.flops(budget),
        "line": {"color": colour, "width": 2, "shape": "spline", "smoothing": 0.8},
        "hovertemplate": "law %{y:.3f}<extra>%{fullData.name} FLOPs</extra>",
        **more,
    }


def _measured(study: StudyReport, budget: float, colour: str) -> dict[str, Any]:
    """The best measured loss of each base model at this budget, above the law's lower cut."""
    sizes = _sizes(study)
    best: dict[str, float] = {}
    for run in study.fitted:
        loss, tokens = run.loss_at_flops(budget), budget * run.tokens[-1] / run.flops[-1]
        if np.isfinite(loss) and tokens >= study.fit.cut:
            best[run.model] = min(loss, best.get(run.model, np.inf))
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [sizes[model] for model in best],
        "y": list(best.values()),
        "text": [label(model) for model in best],
        "showlegend": False,
        "marker": {"color": colour, "size": 9, "line": {"color": PAPER, "width": 1.5}},
        "hovertemplate": f"%{{text}}, measured %{{y:.3f}}<extra>{words.flops(budget)} FLOPs</extra>",
    }


def _ahead(study: StudyReport) -> list[dict[str, Any]]:
    """The recommendation's own budget, with the model that it chose and what was measured there."""
    plan, choice = study.recommendation, study.recommended
    if plan is None or choice is None:
        return []
    line = {"color": ACCENT, "width": 2, "dash": "6px,4px", "shape": "spline", "smoothing": 0.8}
    traces = [_profile(study, plan.flops, ACCENT, line=line, name=f"{words.flops(plan.flops)}, extrapolated")]
    traces.append(prediction_trace(choice.body_parameters, plan.predicted_loss, plan.interval))
    if study.verification is not None:
        traces.append(measured_trace(choice.body_parameters, study.verification.measured))
    return traces
