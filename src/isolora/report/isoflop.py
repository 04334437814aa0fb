"""Iso-FLOP profiles: the same compute spent on smaller or larger base models, as measured and as the law has it."""

from __future__ import annotations

import numpy as np

from isolora.fit import Fit
from isolora.json_types import JsonObject
from isolora.plan import isoflop
from isolora.report import axes, palette
from isolora.report import wording as words
from isolora.report.axes import label
from isolora.report.marks import extent, loss_frame, measured_trace, prediction_trace
from isolora.report.palette import ACCENT, BUDGETS, PAPER, SOFT, Figure
from isolora.report.study_report import StudyReport


def figure(study: StudyReport) -> Figure | None:
    """None without a law, and for fewer than two sizes: there is nothing to trade then."""
    if study.fit is None or len({option.body_parameters for option in study.options}) < 2:
        return None
    traces = []
    for index, budget in enumerate(_budgets(study)):
        traces += [_profile(study, study.fit, budget, palette.budget(index)), _measured(study, budget, palette.budget(index))]
    traces = [*traces, *_ahead(study, study.fit)]
    sizes, (losses, above) = extent(traces, "x"), loss_frame(traces)
    x = axes.log_axis("base model, by non-embedding weights", *sizes, _names(study), margin=0.1)
    y = axes.loss_axis(study.measure, *losses, margin=0.06)
    title = axes.legend(1.0, title={"text": "FLOPs ", "side": "left", "font": {"size": 12, "color": SOFT}})
    return {"data": traces, "layout": axes.layout(x, y, height=480, legend=title, legend3=axes.corner(), annotations=above)}


def _names(study: StudyReport) -> list[tuple[float, str]]:
    """Ticks: the last parts of the base models' names where they have room, else their sizes."""
    sizes = _sizes(study)
    logs = np.log(np.array(sorted(set(sizes.values()))))
    if len(sizes) <= 8 and np.diff(logs).min() > 0.06 * (logs[-1] - logs[0]):
        return [(size, label(model.rpartition("/")[2])) for model, size in sizes.items()]
    return axes.count_ticks(float(np.exp(logs[0])), float(np.exp(logs[-1])))


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
    low, high = max(study.cut, 1.0) * sorted(prices.values())[1], sorted(ends.values())[-2]
    return [float(budget) for budget in np.geomspace(min(low, high / 4), high, BUDGETS)]


def _profile(study: StudyReport, fit: Fit, budget: float, colour: str, **more: object) -> JsonObject:
    """The law at each base model's best adapter, as far down as it holds (tokens above its lower cut); a line for each family."""
    found = isoflop(fit, study.options, budget)
    families = [fit.families.get(option.model, "") for option in study.options]
    best: dict[tuple[str, float], float] = {}
    for family, size, tokens, loss in zip(families, found["body_parameters"], found["tokens"], found["loss"], strict=True):
        if tokens >= study.cut:
            best[family, float(size)] = min(float(loss), best.get((family, float(size)), np.inf))
    places: list[tuple[float | None, float | None]] = []
    for family in dict.fromkeys(families):
        own = sorted((size, loss) for (name, size), loss in best.items() if name == family)
        places += [(None, None), *own] if places and own else own
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [size for size, _ in places],
        "y": [loss for _, loss in places],
        "name": words.flops_in_words(budget),
        "line": {"color": colour, "width": 2, "shape": "spline", "smoothing": 0.8},
        "hovertemplate": "law %{y:.3f}<extra>%{fullData.name} FLOPs</extra>",
        **more,
    }


def _measured(study: StudyReport, budget: float, colour: str) -> JsonObject:
    """The best measured loss of each base model at this budget, above the law's lower cut."""
    sizes = _sizes(study)
    best: dict[str, float] = {}
    for run in study.fitted:
        loss, tokens = run.loss_at_flops(budget), budget * run.tokens[-1] / run.flops[-1]
        if np.isfinite(loss) and tokens >= study.cut and run.model in sizes:
            best[run.model] = min(loss, best.get(run.model, np.inf))
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [sizes[model] for model in best],
        "y": list(best.values()),
        "text": [label(model) for model in best],
        "showlegend": False,
        "marker": {"color": colour, "size": 9, "line": {"color": PAPER, "width": 1.5}},
        "hovertemplate": f"%{{text}}, measured %{{y:.3f}}<extra>{words.flops_in_words(budget)} FLOPs</extra>",
    }


def _ahead(study: StudyReport, fit: Fit) -> list[JsonObject]:
    """The recommendation's own budget, with the model that it chose and what was measured there."""
    plan, choice = study.recommendation, study.recommended
    if plan is None or choice is None:
        return []
    line = {"color": ACCENT, "width": 2, "dash": "6px,4px", "shape": "spline", "smoothing": 0.8}
    traces = [_profile(study, fit, plan.flops, ACCENT, line=line, name=f"{words.flops_in_words(plan.flops)}, extrapolated")]
    traces.append(prediction_trace(choice.body_parameters, plan.predicted_loss, plan.interval))
    if study.verification is not None:
        traces.append(measured_trace(choice.body_parameters, study.verification.measured))
    return traces
