"""Axes, ticks, legends and frames that every figure shares. Frames are robust: a run that blew up does not flatten the others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from markupsafe import escape

from isolora.json_types import JsonObject
from isolora.report.palette import CLEAR, FAINT, HAIRLINE, INK, PAPER, SOFT
from isolora.report.wording import power, short

_FAMILY = 'Inter, ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif'


def label(text: object) -> str:
    """Text from outside as a figure shows it: plotly reads a little HTML in labels, so its signs are written out."""
    return str(escape(text)).replace("%{", "%&#123;")


def axis(title: str, **more: object) -> JsonObject:
    style = {
        "title": {"text": title, "standoff": 10, "font": {"size": 13, "color": SOFT}},
        "gridcolor": HAIRLINE,
        "linecolor": FAINT,
        "tickcolor": FAINT,
        "tickfont": {"size": 12, "color": SOFT},
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
        "zeroline": False,
        "automargin": True,
    }
    return {**style, **more}


def log_axis(title: str, low: float, high: float, ticks: Iterable[tuple[float, str]], margin: float = 0.03) -> JsonObject:
    """A logarithmic axis from `low` to `high` (both positive) with ticks at the given values."""
    bottom, top = math.log10(low), math.log10(high)
    room = margin * max(top - bottom, 0.02)
    inside = [(value, text) for value, text in ticks if bottom - room <= math.log10(value) <= top + room]
    values, texts = [value for value, _ in inside], [text for _, text in inside]
    return axis(title, type="log", range=[bottom - room, top + room], tickvals=values, ticktext=texts)


def frame(values: Iterable[float], always: Iterable[float] = ()) -> tuple[float, float]:
    """Ends of an axis for positive values of which less is better, such as losses.

    The upper end leaves out what lies far above the rest: beyond twice the distance, in logarithms, from the smallest to
    the 90 % quantile. Values of `always` are inside whatever the rest says.
    """
    kept = [value for value in always if math.isfinite(value) and value > 0]
    finite = np.array([*(value for value in values if value is not None and math.isfinite(value) and value > 0), *kept])
    if not len(finite):
        return 0.1, 1.0
    logs = np.log(finite)
    low, most = float(logs.min()), float(np.quantile(logs, 0.9))
    usual = logs[logs <= low + 2 * max(most - low, 0.02)]
    top = max([math.exp(float(usual.max())), *kept])
    return math.exp(low), max(top, math.exp(low) * 1.002)


def count_above(values: Iterable[float], high: float) -> int:
    """How many values lie above the frame."""
    return sum(1 for value in values if value is not None and value > high * 1.0001)


def above_note(count: int, what: str) -> list[JsonObject]:
    """Words in the upper right corner for what the frame leaves out; none for nothing."""
    if not count:
        return []
    text = f"{count} {what}{'' if count == 1 else 's'} above the frame"
    place = {"xref": "paper", "x": 1, "xanchor": "right", "yref": "paper", "y": 1, "yanchor": "top", "showarrow": False}
    return [{**place, "text": f"↑ {text}", "font": {"size": 12, "color": SOFT}}]


def decade_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Powers of ten, for FLOPs; 3 × 10ⁿ and more between them where fewer than three powers fit, every second where many do."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = math.ceil(len(exponents) / 8)
    ticks: list[tuple[float, str]] = []
    for steps in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
        kept = [exponent for exponent in exponents if exponent % every == 0]
        ticks = [(step * 10.0**exponent, _scientific(step, exponent)) for exponent in kept for step in steps]
        if sum(low <= value <= high for value, _ in ticks) >= 3:
            break
    return ticks


def _scientific(step: int, exponent: int) -> str:
    return power(exponent) if step == 1 else f"{step}×{power(exponent)}"


def count_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """1, 3, 10, 30 ... with suffixes, for tokens and weights; finer where the range is short, coarser where it is long."""
    steps = (1,) if high / low > 1e4 else (1, 3) if high / low > 30 else (1, 2, 5)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [(step * 10.0**exponent, short(step * 10.0**exponent)) for exponent in exponents for step in steps]


def loss_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Eight or so round values in linear steps: a loss rarely spans a power of ten."""
    raw = (high - low) / 9
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    first = math.ceil(low / step)
    digits = max(0, -math.floor(math.log10(step) + 1e-9) + (1 if step / size == 2.5 else 0))
    return [(index * step, f"{index * step:.{digits}f}") for index in range(max(first, 1), math.floor(high / step) + 1)]


def loss_axis(title: str, low: float, high: float, margin: float = 0.05) -> JsonObject:
    ticks = loss_ticks(low, high) if high / low < 20 else count_ticks(low, high)
    return log_axis(title, low, high, ticks, margin)


def layout(x: JsonObject, y: JsonObject, height: int = 460, **more: object) -> JsonObject:
    style = {
        "height": height,
        "font": {"family": _FAMILY, "size": 13, "color": INK},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "margin": {"l": 58, "r": 20, "t": 12, "b": 52},
        "hoverlabel": {"bgcolor": PAPER, "bordercolor": FAINT, "font": {"family": _FAMILY, "size": 12, "color": INK}},
        "hovermode": "closest",
        "legend": legend(1.0),
        "xaxis": x,
        "yaxis": y,
    }
    return {**style, **more}


def legend(y: float, **more: object) -> JsonObject:
    """A row above the plot."""
    style = {"orientation": "h", "x": 0, "xanchor": "left", "y": y, "yanchor": "bottom", "font": {"size": 12, "color": INK}}
    return {**style, "bgcolor": CLEAR, **more}


def corner() -> JsonObject:
    """A legend inside the plot, in its lower left corner, where a falling curve leaves room."""
    return legend(0.03, x=0.02, orientation="v", bgcolor="@paper/0.8")


def legend_row(name: str, **more: object) -> JsonObject:
    """A row of a legend that has no points of its own."""
    return {"type": "scatter", "mode": "markers", "x": [None], "y": [None], "name": name, "hoverinfo": "skip", **more}


def band(x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str, **more: object) -> JsonObject:
    """A filled strip between two curves over the same x."""
    outline = {
        "type": "scatter",
        "mode": "lines",
        "x": [*x, *reversed(x)],
        "y": [*low, *reversed(high)],
        "fill": "toself",
        "fillcolor": colour,
        "line": {"width": 0},
        "hoverinfo": "skip",
    }
    return {**outline, **more}


def upright(x: float) -> JsonObject:
    """A dotted line over the whole height of a plot."""
    line = {"color": FAINT, "width": 1.2, "dash": "2px,3px"}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def side_note(x: float, text: str, side: str, y: float = 1.0) -> JsonObject:
    """Words at the top of an `upright`, to its left or right; `x` on a logarithmic axis."""
    place = {"x": math.log10(x), "yref": "paper", "y": y, "yanchor": "top", "showarrow": False}
    beside = {"xanchor": "right", "xshift": -6} if side == "left" else {"xanchor": "left", "xshift": 6}
    return {**place, **beside, "text": text, "font": {"size": 12, "color": SOFT}}
