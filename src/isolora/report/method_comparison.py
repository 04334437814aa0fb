"""Method by method: how each ended at its best learning rate, each method with a colour and symbol of its own."""

from __future__ import annotations

from isolora.json_types import JsonObject
from isolora.report import axes, palette
from isolora.report.axes import label
from isolora.report.cells import Cell
from isolora.report.palette import Figure, faded
from isolora.report.rate_cells import MOST_NAMES
from isolora.report.study_report import StudyReport

MOST = 40
"""Rows in the picture, best first; the table below it has them all."""


def figure(study: StudyReport) -> Figure | None:
    """None for a study of one method."""
    if len(study.families) < 2:
        return None
    shown = study.cells[:MOST]
    rows = _rows(study, shown)
    traces = []
    for index, family in enumerate(study.families):
        own = [(cell, row) for cell, row in zip(shown, rows, strict=True) if cell.family == family]
        if own:
            traces += _family(own, label(family), palette.group(index), palette.marker_symbol(index))
    losses = [float(run.loss[-1]) for cell in shown for run in cell.ends]
    low, high = axes.frame(losses)
    x = axes.loss_axis(study.measure, low, high)
    y = axes.axis("", type="category", categoryorder="array", categoryarray=rows[::-1], showline=False, ticks="")
    y["range"] = [-0.7, len(rows) - 0.3]
    hidden = axes.above_note(axes.count_above(losses, high), "run")
    named = len(traces) <= 2 * MOST_NAMES  # beyond, the axis names them all the same
    return {"data": traces, "layout": axes.layout(x, y, height=150 + 26 * len(rows), annotations=hidden, showlegend=named)}


def _rows(study: StudyReport, shown: list[Cell]) -> list[str]:
    """What each cell is called on the axis: its adapter, with the base model where there are several."""
    return [label(cell.name if len(study.models) > 1 else cell.adapter) for cell in shown]


def _family(own: list[tuple[Cell, str]], name: str, colour: str, symbol: str) -> list[JsonObject]:
    seeds = {
        "type": "scatter",
        "mode": "markers",
        "x": [float(run.loss[-1]) for cell, _ in own for run in cell.ends],
        "y": [row for cell, row in own for _ in cell.ends],
        "legendgroup": name,
        "showlegend": False,
        "marker": {"color": faded(colour, 0.45), "symbol": symbol, "size": 6},
        "hovertemplate": "%{y}, one seed: %{x:.4f}<extra></extra>",
    }
    means = {
        "type": "scatter",
        "mode": "markers",
        "x": [cell.loss for cell, _ in own],
        "y": [row for _, row in own],
        "name": name,
        "legendgroup": name,
        "marker": {"color": colour, "symbol": symbol, "size": 11, "line": {"color": palette.PAPER, "width": 1}},
        "hovertemplate": "%{y}, mean: %{x:.4f}<extra></extra>",
    }
    return [seeds, means]
