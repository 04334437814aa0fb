"""A search's parameters: the share of each in how well trials did, and every trial as a line across them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from isolora.json_types import JsonObject
from isolora.laws import Array
from isolora.report import axes
from isolora.report.axes import label
from isolora.report.palette import ACCENT, INK, SOFT, Figure, faded
from isolora.report.source import ReportedTrial
from isolora.report.study_report import StudyReport
from isolora.report.wording import short

FEWEST = 6
"""Trials that ended, below which a share of importance is noise."""
_TREES = 200


def importance(study: StudyReport) -> dict[str, float]:
    """Share of each parameter in the spread of the metric, as a random forest over the trials sees it; they add up to 1.

    Empty for fewer than six trials that ran to their end, and for a search of one parameter.
    """
    trials = _ended(study)
    names = _names(trials)
    if len(trials) < FEWEST or len(names) < 2:
        return {}
    from sklearn.ensemble import RandomForestRegressor

    inputs_TP = np.stack([_places([trial.parameters.get(name) for trial in trials]) for name in names], axis=1)
    maximizes = study.search is not None and study.search.maximizes
    bounded_T = np.array(_bounded([trial.value for trial in trials], maximizes)[0])  # one that blew up is not the whole story
    if np.ptp(bounded_T) == 0:
        return {}
    forest = RandomForestRegressor(_TREES, random_state=0, min_samples_leaf=2).fit(inputs_TP, bounded_T)
    found = dict(zip(names, map(float, forest.feature_importances_), strict=True))
    return dict(sorted(found.items(), key=lambda item: item[1]))


def importance_figure(study: StudyReport) -> Figure | None:
    shares = importance(study)
    if not shares:
        return None
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [100 * share for share in shares.values()],
        "y": [label(name) for name in shares],
        "marker": {"color": ACCENT},
        "text": [f"{100 * share:.0f} %" for share in shares.values()],
        "textposition": "outside",
        "cliponaxis": False,
        "textfont": {"color": INK},
        "showlegend": False,
        "hovertemplate": "%{y}: %{x:.0f} %<extra></extra>",
    }
    x = axes.axis("share of the spread, %", range=[0, 108], tickvals=[0, 25, 50, 75, 100])
    y = axes.axis("", showgrid=False, ticks="", showline=False, type="category")
    return {"data": [bars], "layout": axes.layout(x, y, height=110 + 40 * len(shares), bargap=0.35)}


def parallel_figure(study: StudyReport) -> Figure | None:
    """Every trial as a line from parameter to parameter to its value; the best tenth, or at least one, stands out."""
    search, trials = study.search, _ended(study)
    names = _names(trials)
    if search is None or len(trials) < 2 or not names:
        return None
    values = [trial.value for trial in trials]
    order = np.argsort(values)[::-1] if search.maximizes else np.argsort(values)
    best = {int(index) for index in order[: max(1, len(trials) // 10)]}
    columns = [[trial.parameters.get(name) for trial in trials] for name in names]
    bounded, cut = _bounded(values, search.maximizes)
    heights = [_scaled(_places(column)) for column in columns] + [_scaled(np.array(bounded))]
    traces = [_line(trial, [float(height[index]) for height in heights], index in best) for index, trial in enumerate(trials)]
    traces.sort(key=lambda trace: trace["line"]["width"])
    titles = [*names, search.metric]
    x = axes.axis(
        "", tickvals=list(range(len(titles))), ticktext=[label(title) for title in titles], range=[-0.25, len(titles) - 0.6]
    )
    y = axes.axis("", range=[-0.06, 1.06], showticklabels=False, showgrid=False, ticks="", showline=False)
    marks = [mark for place, column in enumerate(columns) for mark in _marks(place, column, heights[place])]
    marks += _marks(len(columns), bounded, heights[-1], cut, "≤ " if search.maximizes else "≥ ")
    layout = axes.layout({**x, "showline": False}, y, height=420, annotations=marks, showlegend=False)
    layout["shapes"] = [axes.upright(place) for place in range(len(titles))]
    return {"data": traces, "layout": layout}


def _ended(study: StudyReport) -> list[ReportedTrial]:
    found = study.search.trials if study.search else []
    return [trial for trial in found if trial.state == "DONE" and math.isfinite(trial.value) and trial.parameters]


def _names(trials: Sequence[ReportedTrial]) -> list[str]:
    return list(dict.fromkeys(name for trial in trials for name in trial.parameters))


def _numeric(column: Sequence[object]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in column)


def _places(column: Sequence[object]) -> Array:
    """Numbers, as logarithms where they span more than a factor of eight; anything else by its place in order."""
    if not _numeric(column):
        known = sorted({str(value) for value in column})
        return np.array([known.index(str(value)) for value in column], dtype=float)
    numbers = np.array(column, dtype=float)
    return np.log(numbers) if numbers.min() > 0 and numbers.max() > 8 * numbers.min() else numbers


def _bounded(values: Sequence[float], maximizes: bool) -> tuple[list[float], float | None]:
    """Values with those far on the bad side brought to a bound, and the bound where there are such."""
    sign = -1.0 if maximizes else 1.0
    signed = np.array(values) * sign
    best, middle = float(signed.min()), float(np.median(signed))
    bound = best + 3 * max(middle - best, 1e-9)
    if not (signed > bound).any():
        return list(values), None
    return [float(sign * min(value, bound)) for value in signed], sign * bound


def _scaled(places: Array) -> Array:
    """From 0 to 1."""
    scaled: Array = (places - places.min()) / max(float(np.ptp(places)), 1e-12)
    return scaled


def _line(trial: ReportedTrial, heights: list[float], best: bool) -> JsonObject:
    line = {"color": ACCENT, "width": 2.5} if best else {"color": faded(SOFT, 0.45), "width": 1}
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": list(range(len(heights))),
        "y": heights,
        "text": f"{label(trial.words)}<br>{trial.value:.4f}",
        "line": line,
        "marker": {"size": 5 if best else 3, "color": line["color"]},
        "hovertemplate": "%{text}<extra></extra>",
    }


def _marks(place: int, column: Sequence[Any], heights: Array, cut: float | None = None, beyond: str = "") -> list[JsonObject]:
    """The values at the ends of an upright, all of them where they are few."""
    shown: dict[str, float] = {}
    pairs = sorted(zip(map(float, heights), column, strict=True), key=lambda pair: pair[0])
    chosen = pairs if len({str(value) for value in column}) <= 6 else [pairs[0], pairs[-1]]
    for height, value in chosen:
        text = short(float(value)) if _numeric([value]) and value > 0 else str(value)
        shown.setdefault(beyond + text if value == cut else text, height)
    return [
        {"x": place, "y": height, "text": label(text), "xanchor": "left", "xshift": 7, "showarrow": False,
         "font": {"size": 12, "color": SOFT}, "bgcolor": "@paper/0.75"}
        for text, height in shown.items()
    ]  # fmt: skip
