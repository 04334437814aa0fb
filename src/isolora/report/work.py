"""Where the work goes: FLOPs of each base model's largest run by part of the model and phase, as the run booked them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from isolora.json_types import JsonObject
from isolora.report import axes, palette
from isolora.report import wording as words
from isolora.report.axes import label
from isolora.report.palette import SOFT, Figure, faded
from isolora.report.study_report import StudyReport

Work = Mapping[str, Mapping[str, float]]
"""Module group -> phase -> FLOPs."""

PHASES = {
    "forward": ("forward", 1.0),
    "backward_inputs": ("gradients to inputs", 0.68),
    "backward_weights": ("gradients to weights", 0.42),
    "recomputation": ("recomputation", 0.26),
    "reference": ("reference scores", 0.14),
}
"""Name in the store -> name on the page, and the opacity that tells it apart within its group's colour."""


def figure(study: StudyReport) -> Figure | None:
    """None for a table that does not say what its FLOPs were spent on."""
    bars = largest(study)
    if not bars:
        return None
    groups = list(dict.fromkeys(group for work in bars.values() for group in work))
    colours = {group: palette.group(index) for index, group in enumerate(groups)}
    traces = [_trace(bars, group, phase, colours[group]) for group in groups for phase in PHASES]
    used = [phase for phase in PHASES if any(part.get(phase) for work in bars.values() for part in work.values())]
    keys = [*(_key(group, colours[group]) for group in groups), *(_shade(phase) for phase in used)]
    return {"data": [trace for trace in traces if any(trace["x"])] + keys, "layout": _layout(bars)}


def largest(study: StudyReport) -> dict[str, Work]:
    """What the run with the most FLOPs of each base model, and that of the proof, was spent on: name on the page -> work."""
    if "flops_by_group" not in study.table:
        return {}
    rows = sorted(zip(*(study.table[name] for name in ("tokens", "run", "flops_by_group")), strict=True))
    noted = {run: _booked(text) for _, run, text in rows}  # the last evaluation of each
    runs = {run.model: run for run in sorted(study.fitted, key=lambda run: run.flops[-1])}
    named = {runs[model].name: noted[runs[model].run] for model in study.models if model in runs}
    named |= {f"{run.name}, verification": noted[run.run] for run in study.proof}
    return {name: work for name, work in named.items() if work}


def _booked(text: str) -> Work:
    """The ledger's books in a point's JSON; none where a foreign table has something else there."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and all(isinstance(part, dict) for part in found.values()) else {}


def total(work: Work) -> float:
    return sum(sum(part.values()) for part in work.values())


def _trace(bars: Mapping[str, Work], group: str, phase: str, colour: str) -> JsonObject:
    """One segment of every bar, in per cent of the bar."""
    flops = [work.get(group, {}).get(phase, 0.0) for work in bars.values()]
    title, opacity = PHASES[phase]
    return {
        "type": "bar",
        "orientation": "h",
        "x": [100 * part / total(work) for part, work in zip(flops, bars.values(), strict=True)],
        "y": [_bar_name(name, work) for name, work in bars.items()],
        "customdata": [words.flops_in_words(part) if part else "" for part in flops],
        "name": f"{label(group)}, {title}",
        "legendgroup": label(group),
        "showlegend": False,
        "marker": {"color": faded(colour, opacity), "line": {"color": palette.PAPER, "width": 0.8}},
        "hovertemplate": "%{fullData.name}<br>%{x:.1f} %, %{customdata} FLOPs<extra></extra>",
    }


def _bar_name(name: str, work: Work) -> str:
    """In three short lines, so that a phone has room for the bar."""
    model, _, rest = name.partition(", ")
    return "<br>".join([label(model), *([label(rest)] if rest else []), f"{words.flops_in_words(total(work))} FLOPs"])


def _key(group: str, colour: str) -> JsonObject:
    """A row of the legend; a click hides the group."""
    return {
        "type": "bar",
        "x": [None],
        "y": [None],
        "name": label(group),
        "legendgroup": label(group),
        "marker": {"color": colour},
    }


def _shade(phase: str) -> JsonObject:
    title, opacity = PHASES[phase]
    return {
        "type": "bar",
        "x": [None],
        "y": [None],
        "name": title,
        "legend": "legend2",
        "marker": {"color": faded(SOFT, opacity)},
    }


def _layout(bars: Mapping[str, Work]) -> JsonObject:
    height = 58 * len(bars)
    layout = axes.layout(
        axes.axis("share of the run's FLOPs", range=[0, 100], ticksuffix=" %"),
        axes.axis("", autorange="reversed", showline=False, ticks="", showgrid=False),
        height=height + 76 + 52,
        barmode="stack",
        bargap=0.3,
        legend=axes.legend(1 + 32 / height),
        legend2=axes.legend(1 + 6 / height, traceorder="normal", itemclick=False, itemdoubleclick=False),
    )
    layout["margin"]["t"] = 76
    return layout
