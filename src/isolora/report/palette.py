"""Colours and axes that every figure shares: calm, and told apart by lightness as well as by hue."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import escape

Figure = dict[str, Any]
"""A plotly figure as plain data: {"data": [...], "layout": {...}}; no import of plotly's own classes is needed."""

INK, SOFT, FAINT, HAIRLINE, PAPER = "#1c2333", "#566074", "#a3abba", "#e6e9ef", "#ffffff"
ACCENT = "#00796b"
"""The recommendation and its proof: the one hue that no ramp below contains."""

SIZE_RAMP = ("#f0a93b", "#dd6f4f", "#a8487a", "#5a3d8f", "#1f2f6b")
"""Small base models to large ones, light to dark: the order survives every kind of colour blindness and a grey printer."""
BUDGET_RAMP = ("#9ccbe6", "#5ba3cf", "#2b7bba", "#0f5499", "#0a2f63")
"""Small budgets to large ones."""
GROUP_COLOURS = ("#2b7bba", "#f0a93b", "#3c4f76", "#a8487a", "#7fb069", "#dd6f4f", "#8a93a6")
"""Parts of a model, which have no order: hues that neighbours do not share."""

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "hexagon", "star")
DASHES = ("solid", "6px,3px", "2px,3px", "9px,3px,2px,3px", "12px,4px")

_FAMILY = 'Inter, ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif'
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def ramp(anchors: Sequence[str], count: int) -> list[str]:
    """`count` colours, evenly spaced along the anchors; a single one is the darkest."""
    if count == 1:
        return [anchors[-1]]
    return [_between(anchors, index / (count - 1) * (len(anchors) - 1)) for index in range(count)]


def _between(anchors: Sequence[str], place: float) -> str:
    first = min(int(place), len(anchors) - 2)
    low, high = _channels(anchors[first]), _channels(anchors[first + 1])
    share = place - first
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(low, high, strict=True))


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def faded(colour: str, opacity: float) -> str:
    red, green, blue = _channels(colour)
    return f"rgba({red},{green},{blue},{opacity:g})"


def label(text: object) -> str:
    """Text from outside as a figure shows it: plotly reads a little HTML in labels, so that its signs are written out."""
    return str(escape(text))


def short(value: float) -> str:
    """12400 -> '12.4k', three digits at most."""
    for size, suffix in _SUFFIXES:
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def power(exponent: int) -> str:
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def axis(title: str, **more: Any) -> dict[str, Any]:
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


def log_axis(title: str, low: float, high: float, ticks: Iterable[tuple[float, str]], margin: float = 0.03) -> dict[str, Any]:
    """A logarithmic axis from `low` to `high` (both positive) with ticks at the given values."""
    bottom, top = math.log10(low), math.log10(high)
    room = margin * max(top - bottom, 1e-3)
    inside = [(value, text) for value, text in ticks if bottom - room <= math.log10(value) <= top + room]
    values, texts = [value for value, _ in inside], [text for _, text in inside]
    return axis(title, type="log", range=[bottom - room, top + room], tickvals=values, ticktext=texts)


def decade_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Powers of ten, for FLOPs; their halves (3 × 10ⁿ) too where fewer than three powers fit."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    whole = [(10.0**exponent, power(exponent)) for exponent in exponents]
    if sum(low <= value <= high for value, _ in whole) >= 3:
        return whole
    return sorted([*whole, *((3 * 10.0**exponent, f"3×{power(exponent)}") for exponent in exponents)])


def count_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """1, 3, 10, 30 ... with suffixes, for tokens and weights; finer where the range is short."""
    steps = (1, 3) if high / low > 30 else (1, 2, 5)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [(step * 10.0**exponent, short(step * 10.0**exponent)) for exponent in exponents for step in steps]


def loss_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Eight or so round values in linear steps: a loss rarely spans a power of ten."""
    raw = (high - low) / 9
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    first = math.ceil(low / step)
    digits = max(0, -math.floor(math.log10(step) + 1e-9) + (1 if step / size == 2.5 else 0))
    return [(index * step, f"{index * step:.{digits}f}") for index in range(first, math.floor(high / step) + 1)]


def layout(x: dict[str, Any], y: dict[str, Any], height: int = 460, **more: Any) -> dict[str, Any]:
    style = {
        "height": height,
        "font": {"family": _FAMILY, "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 58, "r": 20, "t": 12, "b": 52},
        "hoverlabel": {"bgcolor": PAPER, "bordercolor": HAIRLINE, "font": {"family": _FAMILY, "size": 12, "color": INK}},
        "hovermode": "closest",
        "legend": legend(1.0),
        "xaxis": x,
        "yaxis": y,
    }
    return {**style, **more}


def legend(y: float, **more: Any) -> dict[str, Any]:
    """A row above the plot."""
    style = {"orientation": "h", "x": 0, "xanchor": "left", "y": y, "yanchor": "bottom", "font": {"size": 12, "color": INK}}
    return {**style, "bgcolor": "rgba(0,0,0,0)", **more}


def band(x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str, **more: Any) -> dict[str, Any]:
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


def upright(x: float) -> dict[str, Any]:
    """A dotted line over the whole height of a plot."""
    line = {"color": FAINT, "width": 1.2, "dash": "2px,3px"}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def note(x: float, text: str, side: str) -> dict[str, Any]:
    """Words at the top of an `upright`, to its left or right; `x` on a logarithmic axis."""
    place = {"x": math.log10(x), "yref": "paper", "y": 1, "yanchor": "top", "showarrow": False}
    beside = {"xanchor": "right", "xshift": -6} if side == "left" else {"xanchor": "left", "xshift": 6}
    return {**place, **beside, "text": text, "font": {"size": 12, "color": SOFT}}


def corner() -> dict[str, Any]:
    """A legend inside the plot, in its lower left corner, where a falling curve leaves room."""
    return legend(0.03, x=0.02, orientation="v")
