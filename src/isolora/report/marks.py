"""The marks that mean the same in every figure: the prediction (a star), the measurement (a ring), the run behind it (dots)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from isolora.json_types import JsonObject
from isolora.report.axes import above_note, count_above, frame, label
from isolora.report.palette import ACCENT, CLEAR, INK, faded


def prediction_trace(x: float, loss: float, interval: tuple[float, float]) -> JsonObject:
    """The recommended point with its 95 % interval."""
    low, high = interval
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [x],
        "y": [loss],
        "name": "predicted, 95 % interval",
        "legend": "legend3",
        "marker": {"color": ACCENT, "size": 13, "symbol": "star"},
        "error_y": {
            "type": "data",
            "array": [high - loss],
            "arrayminus": [loss - low],
            "color": ACCENT,
            "thickness": 1.8,
            "width": 5,
        },
        "hovertemplate": f"predicted %{{y:.3f}} [{low:.3f}, {high:.3f}]<extra></extra>",
    }


def measured_trace(x: float, loss: float) -> JsonObject:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [x],
        "y": [loss],
        "name": "measured afterwards",
        "legend": "legend3",
        "marker": {"color": CLEAR, "size": 15, "symbol": "circle", "line": {"color": INK, "width": 2}},
        "hovertemplate": "measured %{y:.3f}<extra></extra>",
    }


def proof_trace(x: Any, loss_M: Any, target: str) -> JsonObject:
    """The verification's run on its way to the measurement. target: what is measured."""
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [float(value) for value in x],
        "y": [float(value) for value in loss_M],
        "name": "verification run",
        "showlegend": False,
        "marker": {"color": faded(INK, 0.75), "size": 4},
        "hovertemplate": f"verification run<br>{label(target)} %{{y:.3f}}<extra></extra>",
    }


_INTERVAL_REACH = 0.6
"""How much of the points' own range an interval may add to the frame on either side: a very wide one runs out of it."""


def values(traces: list[JsonObject], axis: str) -> list[float]:
    """Every positive number of the traces along an axis."""
    found = [float(value) for trace in traces for value in trace[axis] if value is not None]
    return [value for value in found if np.isfinite(value) and value > 0]


def bars(traces: list[JsonObject], axis: str) -> list[float]:
    """The ends of the traces' error bars: what a frame has to show."""
    ends = []
    for trace in traces:
        spread = trace.get(f"error_{axis}")
        if spread:
            ends += [trace[axis][0], trace[axis][0] + spread["array"][0], trace[axis][0] - spread["arrayminus"][0]]
    return ends


def extent(traces: list[JsonObject], axis: str) -> tuple[float, float]:
    """Smallest and largest positive value of all traces, error bars included."""
    found = [*values(traces, axis), *(end for end in bars(traces, axis) if end > 0)] or [0.1, 1.0]
    low, high = min(found), max(found)
    return low, max(high, low * 1.002)


def loss_frame(traces: list[JsonObject]) -> tuple[tuple[float, float], list[JsonObject]]:
    """Ends of the loss axis that one bad run does not stretch, and a note of how many points they leave out."""
    points = [trace for trace in traces if trace.get("fill") != "toself"]  # a band may run out of the frame
    losses = values(points, "y")
    kept = [loss for trace in traces if trace.get("legend") == "legend3" for loss in trace["y"] if loss]
    low, high = frame(losses, always=kept)
    reach = _INTERVAL_REACH * math.log(high / low)
    ends = [end for end in bars(traces, "y") if end > 0]
    lowest, highest = low * math.exp(-reach), high * math.exp(reach)
    low, high = min([low, *(max(end, lowest) for end in ends)]), max([high, *(min(end, highest) for end in ends)])
    return (low, high), above_note(count_above(losses, high), "point")
