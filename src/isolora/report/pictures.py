"""Single pictures for a notebook: a fitted law and a plan as plotly figures in the page's light colours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from plotly.graph_objects import Figure as PlotlyFigure

from isolora import laws
from isolora.fit import Fit, targeted
from isolora.fit.distance import COMPUTE
from isolora.json_types import JsonObject
from isolora.laws import Array
from isolora.plan import Recommendation
from isolora.report import axes, loss_curves, palette
from isolora.report.axes import label
from isolora.report.marks import extent, loss_frame
from isolora.report.palette import ACCENT, PAPER, SOFT, Figure, faded
from isolora.report.study_report import StudyReport
from isolora.report.trajectories import trajectory_name
from isolora.table import Table

_SAMPLES = 60
_SIZES = 3
"""Lines of a law without its points: the smallest base fitted, the largest, and one between."""
_ROLE = re.compile(r"@([\w-]+)(?:/([\d.]+))?")


def picture_of_fit(fit: Fit, table: Table | None = None) -> PlotlyFigure:
    """Loss against tokens: the law through the points of its table, or, without the table, the law over the fitted range."""
    if table is not None:
        study = StudyReport("", targeted(table, fit.target).table, fit, target=fit.target)
        figure = loss_curves.figure(study)
        if figure is not None:
            return as_plotly(figure, len(study.models))
    return as_plotly(_law_alone(fit), _SIZES)


def picture_of_plan(plan: Recommendation) -> PlotlyFigure:
    """What each option is expected to reach for the budget, with its 95 % interval, best first, the recommended one coloured."""
    chosen = (plan.model, plan.method["name"], plan.method.get("rank") or None)
    rows = [{**row, "key": (row["model"], row["method"], row["rank"])} for row in plan.alternatives]
    names = [label(trajectory_name(row["model"], row["method"], row["rank"])) for row in rows]
    colours = [ACCENT if row["key"] == chosen else SOFT for row in rows]
    bars = {
        "type": "scatter",
        "mode": "markers",
        "x": [row["predicted_loss"] for row in rows],
        "y": names,
        "marker": {"color": colours, "size": 10},
        "error_x": {
            "type": "data",
            "array": [row["interval"][1] - row["predicted_loss"] for row in rows],
            "arrayminus": [row["predicted_loss"] - row["interval"][0] for row in rows],
            "color": SOFT,
        },
        "customdata": [[row["tokens"], row["flops"]] for row in rows],
        "hovertemplate": "%{y}<br>expected %{x:.4f} on %{customdata[0]:.3s} tokens, %{customdata[1]:.2e} FLOPs<extra></extra>",
        "showlegend": False,
    }
    x = axes.axis(f"expected {plan.target}, 95 % interval")
    y = axes.axis("", autorange="reversed", type="category")
    return as_plotly({"data": [bars], "layout": axes.layout(x, y, height=160 + 28 * len(rows))}, 1)


def as_plotly(figure: Figure, models: int) -> PlotlyFigure:
    """A page's figure with its roles of colour put into colours."""
    layout = {**figure["layout"], "paper_bgcolor": PAPER, "plot_bgcolor": PAPER}  # a notebook may be dark
    return PlotlyFigure(_coloured({**figure, "layout": layout}, palette.themes(max(models, 1))["light"]))


def _coloured(value: object, theme: Mapping[str, str], key: str = "") -> Any:
    """As the page's script does it: only keys that end in "color" are roles, never text from outside."""
    if isinstance(value, Mapping):
        return {inner: _coloured(each, theme, inner) for inner, each in value.items()}
    if isinstance(value, list | tuple):
        return [_coloured(each, theme, key) for each in value]
    found = _ROLE.fullmatch(value) if isinstance(value, str) and key.endswith("color") else None
    if found is None or found[1] not in theme:
        return value
    colour = theme[found[1]]
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{found[2]})" if found[2] else colour


def _law_alone(fit: Fit) -> Figure:
    tokens_M = np.geomspace(*fit.ranges["d"], _SAMPLES)
    traces: list[JsonObject] = []
    for index, size in enumerate(_sizes(fit)):
        columns = _place(fit, tokens_M, size)
        colour, name = palette.size(index), f"n = {size:.3g}" if size else f"law {fit.law}"
        low_M, high_M = fit.interval(columns)
        x, y = tokens_M.tolist(), fit.predict(columns).tolist()
        traces.append(axes.band(x, low_M.tolist(), high_M.tolist(), faded(colour, 0.15), showlegend=False))
        line = {"type": "scatter", "mode": "lines", "x": x, "y": y, "name": name, "line": {"color": colour, "width": 2}}
        traces.append({**line, "hovertemplate": f"{name}<br>%{{x:.3s}} tokens, {label(fit.target)} %{{y:.3f}}<extra></extra>"})
    ends, (losses, _) = extent(traces, "x"), loss_frame(traces)
    x_axis = axes.log_axis("tokens processed", *ends, axes.count_ticks(*ends))
    return {"data": traces, "layout": axes.layout(x_axis, axes.loss_axis(label(fit.target), *losses), height=480)}


def _sizes(fit: Fit) -> list[float]:
    if "n" not in fit.ranges:
        return [0.0]
    return [float(size) for size in np.unique(np.geomspace(*fit.ranges["n"], _SIZES))]


def _place(fit: Fit, tokens_M: Array, size: float) -> JsonObject:
    """The law's columns at one size: tokens vary, once each; whatever else it reads stays in the middle of what was fitted."""
    whole_M = np.ones_like(tokens_M)
    ranges = {name: ends for name, ends in fit.ranges.items() if not name.startswith(laws.GROUP_PREFIXES)}
    middle = {name: float(np.sqrt(low * high)) * whole_M for name, (low, high) in ranges.items()}
    columns: JsonObject = {**middle, "d": tokens_M, "u": tokens_M}
    if size:
        columns["n"] = size * whole_M
    if fit.price:
        columns.pop(COMPUTE, None)  # follows size and tokens
    groups = {"method": laws.methods_in_name(fit.law), "family": laws.families_in_name(fit.law)}
    return columns | {name: np.full(len(tokens_M), known[0], dtype=object) for name, known in groups.items() if known}
