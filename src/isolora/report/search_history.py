"""How a search went: the best value so far by FLOPs, which parameter mattered, and every trial across its parameters."""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from isolora.json_types import JsonObject
from isolora.report import axes
from isolora.report import wording as words
from isolora.report.axes import label
from isolora.report.palette import ACCENT, CLEAR, FAINT, SOFT, Figure
from isolora.report.search_parameters import importance
from isolora.report.source import ReportedTrial
from isolora.report.study_report import StudyReport

SHOWN = 0.75
"""Share of the trials that the picture has room for, the best ones: those that blew up would flatten all others."""


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
