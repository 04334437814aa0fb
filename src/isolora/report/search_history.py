"""How a search went: the best value so far by FLOPs, which parameter mattered, and every trial across its parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from isolora.json_types import JsonObject
from isolora.laws import Array
from isolora.report import axes
from isolora.report import wording as words
from isolora.report.axes import label
from isolora.report.palette import ACCENT, CLEAR, FAINT, INK, SOFT, Figure, faded
from isolora.report.source import ReportedTrial
from isolora.report.study_report import StudyReport
from isolora.report.wording import short

SHOWN = 0.75
"""Share of the trials that the picture has room for, the best ones: those that blew up would flatten all others."""


FEWEST = 6
"""Trials that ended, below which a share of importance is noise."""
_TREES = 200


def figure(study: StudyReport) -> Figure | None:
    """None for a study that is no search."""
    search = study.search
    if search is None or not search.trials:
        return None
    better = max if search.maximizes else min
    ended = [trial for trial in search.trials if trial.state == "DONE"]
    best = list(accumulate((trial.value for trial in ended), better))
    traces = [
        _dots(search.trials, "PRUNED", {"color": CLEAR, "line": {"color": FAINT, "width": 1.5}}),
        _dots(search.trials, "DONE", {"color": SOFT}),
        {
            "type": "scatter",
            "mode": "lines",
            "x": [trial.flops for trial in ended],
            "y": best,
            "name": "best so far",
            "line": {"color": ACCENT, "width": 2, "shape": "hv"},
            "hoverinfo": "skip",
        },
    ]
    values = [trial.value for trial in search.trials]
    low, high = np.quantile(values, [1 - SHOWN, 1.0] if search.maximizes else [0.0, SHOWN])
    room = 0.06 * max(high - low, 1e-9)
    x = axes.axis("FLOPs spent on trials so far", rangemode="tozero")
    y = axes.axis(label(search.metric), range=[low - room, high + room])
    return {"data": [trace for trace in traces if trace["x"]], "layout": axes.layout(x, y, height=380)}


def _dots(trials: list[ReportedTrial], state: str, marker: JsonObject) -> JsonObject:
    shown = [trial for trial in trials if trial.state == state]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [trial.flops for trial in shown],
        "y": [trial.value for trial in shown],
        "text": [label(trial.words) for trial in shown],
        "name": {"DONE": "to its end", "PRUNED": "pruned"}[state],
        "marker": {"size": 8, **marker},
        "hovertemplate": "%{text}<br>%{y:.4f}<extra></extra>",
    }


def caption(study: StudyReport) -> str:
    search = study.search
    if search is None or not search.trials:
        return ""
    pruned = sum(trial.state == "PRUNED" for trial in search.trials)
    total = words.flops_in_words(search.trials[-1].flops)
    return (
        f"{len(search.trials)} trials for {total} FLOPs, {pruned} of them given up early. Each mark is a trial where it ended, "
        f"set at what all trials up to it had cost; the best {100 * SHOWN:.0f} % are in view.{_most_important(study)}"
    )


def _most_important(study: StudyReport) -> str:
    shares = importance(study)
    name, share = list(shares.items())[-1] if shares else ("", 0.0)
    return f" Most of the spread comes from {name} ({words.percent(share)})." if share > 0.5 else ""


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
