"""Iso-FLOP profiles: the same compute spent on smaller or larger base models, as measured and as the law has it."""

from __future__ import annotations

from typing import Any

import numpy as np

from isolora.laws import Array
from isolora.report import palette, words
from isolora.report.loss_curves import extent
from isolora.report.palette import BUDGET_RAMP, PAPER, Figure, label
from isolora.report.study import StudyReport
from isolora.report.trajectories import Choice, Trajectory

_BUDGETS = 5
_SAMPLES = 61


def figure(study: StudyReport) -> Figure | None:
    """None for a study of fewer than two sizes: there is nothing to trade then."""
    best = best_by_model(study)
    if len(best) < 2:
        return None
    budgets = shared_budgets(best)
    colours = palette.ramp(BUDGET_RAMP, len(budgets))
    traces = []
    for budget, colour in zip(budgets, colours, strict=True):
        traces += [_profile(study, budget, colour), _measured(best, study, budget, colour)]
    lowest = [_lowest(study, budget, colour) for budget, colour in zip(budgets, colours, strict=True)]
    traces += [trace for trace in lowest if trace is not None]
    sizes, losses = extent(traces, "x"), extent(traces, "y")
    ticks = [(choice.body_parameters, f"{label(choice.model)}") for choice in _one_each(study)]
    x = palette.log_axis("base model, by non-embedding weights", *sizes, ticks, margin=0.08)
    y = palette.log_axis("held-out loss, nats per token", *losses, palette.loss_ticks(*losses), margin=0.06)
    return {"data": traces, "layout": palette.layout(x, y, height=440)}


def best_by_model(study: StudyReport) -> dict[str, Trajectory]:
    """For each base model the run that ended lowest."""
    best: dict[str, Trajectory] = {}
    for run in study.fitted:
        if run.model not in best or run.loss_M[-1] < best[run.model].loss_M[-1]:
            best[run.model] = run
    return best


def shared_budgets(best: dict[str, Trajectory]) -> list[float]:
    """FLOPs, evenly spaced by their logarithm, such that each budget was reached by two or more models."""
    starts = sorted(run.flops_M[0] for run in best.values())
    ends = sorted(run.flops_M[-1] for run in best.values())
    low, high = float(starts[-1]), float(ends[-2])
    if low >= high:
        low = float(starts[1])
    return [float(budget) for budget in np.geomspace(low, high, _BUDGETS)]


def _profile(study: StudyReport, budget: float, colour: str) -> dict[str, Any]:
    """The law between the smallest and the largest model, prices interpolated between theirs."""
    size_M = _size_grid(study)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": size_M.tolist(),
        "y": _law_at(study, budget, size_M).tolist(),
        "name": f"{words.flops(budget)} FLOPs",
        "line": {"color": colour, "width": 2},
        "hovertemplate": "%{x:.3s} weights, law %{y:.3f}<extra>%{fullData.name}</extra>",
    }


def _measured(best: dict[str, Trajectory], study: StudyReport, budget: float, colour: str) -> dict[str, Any]:
    sizes = {choice.model: choice.body_parameters for choice in study.choices}
    points = [(sizes[model], run.loss_at_flops(budget), label(run.name)) for model, run in best.items()]
    known = [point for point in points if np.isfinite(point[1])]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [size for size, _, _ in known],
        "y": [loss for _, loss, _ in known],
        "text": [name for _, _, name in known],
        "showlegend": False,
        "marker": {"color": colour, "size": 9, "line": {"color": PAPER, "width": 1.5}},
        "hovertemplate": f"%{{text}}, measured %{{y:.3f}}<extra>{words.flops(budget)} FLOPs</extra>",
    }


def _lowest(study: StudyReport, budget: float, colour: str) -> dict[str, Any] | None:
    """A ring where the law's profile is lowest, if that is inside the range of sizes."""
    size_M = _size_grid(study)
    loss_M = _law_at(study, budget, size_M)
    index = int(loss_M.argmin())
    if index in (0, len(size_M) - 1):
        return None
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [float(size_M[index])],
        "y": [float(loss_M[index])],
        "showlegend": False,
        "marker": {"symbol": "line-ns-open", "size": 14, "color": colour, "line": {"width": 2}},
        "hovertemplate": f"lowest at %{{x:.3s}} weights<extra>{words.flops(budget)} FLOPs</extra>",
    }


def _law_at(study: StudyReport, budget: float, size_M: Array) -> Array:
    """Loss at one budget over sizes: the best of the ranks, each with its own price and trained weights."""
    ranks = {choice.rank for choice in study.choices}
    by_rank = [[choice for choice in study.choices if choice.rank == rank] for rank in ranks]
    losses = [_loss_along(study, row, budget, size_M) for row in by_rank if len(row) > 1]
    return np.asarray(np.min(losses or [_loss_along(study, _one_each(study), budget, size_M)], axis=0))


def _loss_along(study: StudyReport, row: list[Choice], budget: float, size_M: Array) -> Array:
    known = np.log([choice.body_parameters for choice in row])

    def between(values: list[float]) -> Array:
        return np.exp(np.interp(np.log(size_M), known, np.log(values)))

    tokens_M = budget / between([choice.flops_per_token for choice in row])
    available = min(choice.available_tokens for choice in row)
    columns = {
        "n": size_M,
        "d": tokens_M,
        "p": between([choice.trainable_parameters for choice in row]),
        "u": np.minimum(tokens_M, available),
    }
    return study.fit.predict(columns)


def _size_grid(study: StudyReport) -> Array:
    sizes = [choice.body_parameters for choice in study.choices]
    return np.geomspace(min(sizes), max(sizes), _SAMPLES)


def _one_each(study: StudyReport) -> list[Choice]:
    return list({choice.model: choice for choice in study.choices}.values())
