"""The marks that mean the same in every figure: the prediction (a star), the measurement (a ring), the run behind it (dots)."""

from __future__ import annotations

from typing import Any

import numpy as np

from isolora.report.palette import ACCENT, INK, faded


def prediction_trace(x: float, loss: float, interval: tuple[float, float]) -> dict[str, Any]:
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


def measured_trace(x: float, loss: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [x],
        "y": [loss],
        "name": "measured afterwards",
        "legend": "legend3",
        "marker": {"color": "rgba(255,255,255,0)", "size": 15, "symbol": "circle", "line": {"color": INK, "width": 2}},
        "hovertemplate": "measured %{y:.3f}<extra></extra>",
    }


def proof_trace(x: Any, loss_M: Any) -> dict[str, Any]:
    """The verification's run on its way to the measurement."""
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [float(value) for value in x],
        "y": [float(value) for value in loss_M],
        "name": "verification run",
        "showlegend": False,
        "marker": {"color": faded(INK, 0.75), "size": 4},
        "hovertemplate": "verification run<br>loss %{y:.3f}<extra></extra>",
    }


def extent(traces: list[dict[str, Any]], axis: str) -> tuple[float, float]:
    """Smallest and largest positive value of all traces, error bars included."""
    values = [value for trace in traces for value in trace[axis] if value is not None]
    for trace in traces:
        spread = trace.get(f"error_{axis}")
        if spread:
            values += [trace[axis][0] + spread["array"][0], trace[axis][0] - spread["arrayminus"][0]]
    finite = [value for value in values if np.isfinite(value) and value > 0]
    return float(min(finite)), float(max(finite))
