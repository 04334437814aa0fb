"""Learned against forgotten: what each run gained on its own texts and lost on others, by the compute that it took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from isolora.report import formats as words
from isolora.report import palette
from isolora.report.palette import ACCENT, PAPER, Figure, label
from isolora.report.study import StudyReport

LARGEST_MARK = 18
"""Diameter of the run with most FLOPs, in pixels; areas follow FLOPs."""


@dataclass(frozen=True)
class Ending:
    """A run at its last evaluation: losses in nats per token, forgetting as a difference of such losses."""

    name: str
    model: str
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
        Ending(run.name, run.model, float(run.loss[-1]), measured[run.run, float(run.tokens[-1])], float(run.flops[-1]))
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
    traces = [_front(unbeaten(found)), *(_model(study, model, found) for model in study.models)]
    x = palette.axis("held-out loss of the task, nats per token")
    y = palette.axis("loss added on other texts, nats per token", zeroline=True, zerolinecolor=palette.HAIRLINE)
    return {"data": [trace for trace in traces if trace["x"]], "layout": palette.layout(x, y, height=460)}


def _front(front: list[Ending]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [ending.loss for ending in front],
        "y": [ending.forgetting for ending in front],
        "name": "unbeaten in both",
        "line": {"color": ACCENT, "width": 1.5, "shape": "hv"},
        "hoverinfo": "skip",
    }


def _model(study: StudyReport, model: str, found: list[Ending]) -> dict[str, Any]:
    own = [ending for ending in found if ending.model == model]
    most = max(ending.flops for ending in found)
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [ending.loss for ending in own],
        "y": [ending.forgetting for ending in own],
        "text": [label(ending.name) for ending in own],
        "customdata": [words.flops(ending.flops) for ending in own],
        "name": label(model),
        "marker": {
            "color": study.colours[model],
            "size": [LARGEST_MARK * (ending.flops / most) ** 0.5 for ending in own],
            "line": {"color": PAPER, "width": 0.8},
        },
        "hovertemplate": "%{text}<br>loss %{x:.3f}, forgotten %{y:+.3f}<br>%{customdata} FLOPs<extra></extra>",
    }
