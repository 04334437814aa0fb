"""Learning rates, cell by cell: the loss at each rate that was tried, with the best one marked where it lies at an edge."""

from __future__ import annotations

from isolora.json_types import JsonObject
from isolora.report import axes, palette
from isolora.report.axes import label
from isolora.report.cells import Cell
from isolora.report.palette import BAD, PAPER, Figure
from isolora.report.study_report import StudyReport

MOST_NAMES = 24
"""Rows of a legend that a person still reads; of more base models or methods the names are in the hover alone."""


def figure(study: StudyReport) -> Figure | None:
    """None where no cell tried two rates."""
    tried = cells_with_rates(study)
    if not tried:
        return None
    several = len(study.families) > 1
    traces = [_line(study, cell, several) for cell in tried]
    _name_once(traces)
    if len({trace["name"] for trace in traces}) > MOST_NAMES:
        traces = [{**trace, "showlegend": False} for trace in traces]
    losses = [rate.loss for cell in tried for rate in cell.tried]
    low, high = axes.frame(losses, always=[cell.best.loss for cell in tried if cell.best])
    traces += [trace for trace in (_edges(tried), _bests(tried), _diverged(tried, high)) if trace["x"]]
    rates = [rate for trace in traces for rate in trace["x"]]
    x = axes.log_axis("learning rate (peak)", min(rates), max(rates), _rate_ticks(rates), margin=0.06)
    hidden = axes.above_note(axes.count_above(losses, high), "trial")
    layout = axes.layout(x, axes.loss_axis(study.measure, low, high), height=500, annotations=hidden)
    return {"data": traces, "layout": layout}


def cells_with_rates(study: StudyReport) -> list[Cell]:
    """Cells that tried several rates."""
    return [cell for cell in study.cells if len(cell.tried) > 1]


def _line(study: StudyReport, cell: Cell, several: bool) -> JsonObject:
    index = study.families.index(cell.family)
    colour = palette.group(index) if several else study.colours[cell.model]
    name = cell.family if several else cell.model
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [rate.rate for rate in cell.tried],
        "y": [rate.loss for rate in cell.tried],
        "text": label(study.called(cell)),
        "name": label(name),
        "legendgroup": label(name),
        "line": {"color": colour, "width": 1.4},
        "marker": {"color": colour, "symbol": palette.marker_symbol(index) if several else "circle", "size": 7},
        "hovertemplate": "%{text}<br>rate %{x:.2g}, %{y:.4f}<extra></extra>",
    }


def _name_once(traces: list[JsonObject]) -> None:
    seen: set[str] = set()
    for trace in traces:
        trace["showlegend"] = trace["name"] not in seen
        seen.add(trace["name"])


def _bests(tried: list[Cell]) -> JsonObject:
    inside = [cell for cell in tried if not cell.edge]
    return _ring(inside, "best rate of a cell", palette.INK, "circle-open")


def _edges(tried: list[Cell]) -> JsonObject:
    at_edge = [cell for cell in tried if cell.edge]
    return _ring(at_edge, "best rate at the edge: try further", BAD, "diamond-open")


def _ring(found: list[Cell], name: str, colour: str, symbol: str) -> JsonObject:
    best = [cell.best for cell in found if cell.best]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [rate.rate for rate in best],
        "y": [rate.loss for rate in best],
        "text": [label(cell.name) for cell in found],
        "name": name,
        "marker": {"color": colour, "symbol": symbol, "size": 14, "line": {"color": colour, "width": 2}},
        "hovertemplate": "%{text}<br>best rate %{x:.2g}, %{y:.4f}<extra></extra>",
    }


def _diverged(tried: list[Cell], high: float) -> JsonObject:
    """A cross at the top of the frame for each rate at which a run blew up."""
    lost = [(rate, cell.name) for cell in tried for rate in cell.diverged]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [rate for rate, _ in lost],
        "y": [high for _ in lost],
        "text": [label(name) for _, name in lost],
        "name": "diverged",
        "marker": {"color": BAD, "symbol": "x", "size": 9, "line": {"color": PAPER, "width": 1}},
        "hovertemplate": "%{text}<br>diverged at rate %{x:.2g}<extra></extra>",
    }


def _rate_ticks(rates: list[float]) -> list[tuple[float, str]]:
    """The rates that were tried, or round ones where those are many."""
    distinct = sorted(set(rates))
    if len(distinct) <= 9:
        return [(rate, f"{rate:.2g}") for rate in distinct]
    ticks = axes.count_ticks(distinct[0], distinct[-1])
    return [(value, f"{value:.0e}".replace("e-0", "e-")) for value, _ in ticks]
