"""Learned against forgotten: what each run gained on its own texts and lost on others, by the compute that it took."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isolora.json_types import JsonObject
from isolora.report import axes, palette
from isolora.report import wording as words
from isolora.report.axes import label
from isolora.report.palette import ACCENT, PAPER, Figure
from isolora.report.study_report import StudyReport

LARGEST_MARK, SMALLEST_MARK = 18, 7
"""Diameter of the run with most FLOPs, in pixels; areas follow FLOPs down to the smallest that can be told apart."""


@dataclass(frozen=True)
class Ending:
    """A run at its last evaluation. loss: of the report's target; forgetting: a difference of losses in nats per token."""

    name: str
    model: str
    family: str
    loss: float
    forgetting: float
    flops: float


def endings(study: StudyReport) -> list[Ending]:
    """The runs that measured forgetting, best loss first; none where no run did."""
    if "forgetting" not in study.table:
        return []
    measured = {
        (run, float(tokens)): float(lost)
        for run, tokens, lost in zip(*(study.table[name] for name in ("run", "tokens", "forgetting")), strict=True)
    }
    found = [
        Ending(
            study.called(run),
            run.model,
            run.family,
            float(run.loss[-1]),
            measured[run.run, float(run.tokens[-1])],
            float(run.flops[-1]),
        )
        for run in study.fitted
    ]
    return sorted((ending for ending in found if np.isfinite(ending.forgetting)), key=lambda ending: ending.loss)


def unbeaten(found: list[Ending]) -> list[Ending]:
    """Those that no other run beats in what it learnt and in what it kept at once (the Pareto front), best loss first."""
    front: list[Ending] = []
    for ending in found:
        if not front or ending.forgetting < front[-1].forgetting:
            front.append(ending)
    return front


def figure(study: StudyReport) -> Figure | None:
    """None for a study that did not measure forgetting."""
    found = endings(study)
    if not found:
        return None
    groups = _by_method(study, found) if len(study.families) > 1 else _by_model(study, found)
    traces = [_front(unbeaten(found)), *(_marks(study.target, found, *group) for group in groups)]
    losses, lost = [ending.loss for ending in found], [ending.forgetting for ending in found]
    low, high = axes.frame(losses)
    worst = _robust_top(lost)
    x = axes.loss_axis(study.measure, low, high)
    room = 0.06 * max(worst - min(lost), 1e-6)
    more = {"zeroline": True, "zerolinecolor": palette.FAINT, "range": [min(lost) - room, worst + room]}
    y = axes.axis("loss added on other texts, nats per token", **more)
    hidden = axes.above_note(sum(ending.loss > high or ending.forgetting > worst for ending in found), "run")
    return {"data": [trace for trace in traces if trace["x"]], "layout": axes.layout(x, y, height=500, annotations=hidden)}


def _robust_top(values: list[float]) -> float:
    """The largest value, or where few lie far above the rest the largest of the rest."""
    low, most = min(values), float(np.quantile(values, 0.9))
    return max(value for value in values if value <= low + 2 * max(most - low, 1e-6))


Group = tuple[list[Ending], str, str, str]
"""Runs, their name in the legend, colour and symbol."""


def _by_method(study: StudyReport, found: list[Ending]) -> list[Group]:
    return [
        (
            [ending for ending in found if ending.family == family],
            label(family),
            palette.group(index),
            palette.marker_symbol(index),
        )
        for index, family in enumerate(study.families)
    ]


def _by_model(study: StudyReport, found: list[Ending]) -> list[Group]:
    return [
        ([ending for ending in found if ending.model == model], label(model), study.colours[model], "circle")
        for model in study.models
    ]


def _front(front: list[Ending]) -> JsonObject:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [ending.loss for ending in front],
        "y": [ending.forgetting for ending in front],
        "name": "unbeaten in both",
        "line": {"color": ACCENT, "width": 1.5, "shape": "hv"},
        "hoverinfo": "skip",
    }


def _marks(target: str, found: list[Ending], own: list[Ending], name: str, colour: str, symbol: str) -> JsonObject:
    most = max(ending.flops for ending in found)
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [ending.loss for ending in own],
        "y": [ending.forgetting for ending in own],
        "text": [label(ending.name) for ending in own],
        "customdata": [words.flops_in_words(ending.flops) for ending in own],
        "name": name,
        "marker": {
            "color": colour,
            "symbol": symbol,
            "size": [max(SMALLEST_MARK, LARGEST_MARK * (ending.flops / most) ** 0.5) for ending in own],
            "line": {"color": PAPER, "width": 0.8},
        },
        "hovertemplate": f"%{{text}}<br>{label(target)} %{{x:.3f}}, forgotten %{{y:+.3f}}<br>%{{customdata}} FLOPs"
        "<extra></extra>",
    }
