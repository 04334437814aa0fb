"""Colours by role, in a light and a dark theme: figures name roles (`@ink`, `@size2/0.3`), the page's script puts in colours.

Text roles reach a contrast of 4.5 on every ground of their theme and marks one of 3 (WCAG 2.2, 1.4.3 and 1.4.11), both tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from isolora.json_types import JsonObject

Figure = JsonObject
"""A plotly figure as plain data: {"data": [...], "layout": {...}}."""

INK, SOFT, FAINT, HAIRLINE, PAPER, ACCENT, BAD = "@ink", "@soft", "@faint", "@hairline", "@paper", "@accent", "@bad"
CLEAR = "rgba(0,0,0,0)"

LIGHT: Mapping[str, str] = {
    "ink": "#1c2333",
    "soft": "#566074",
    "faint": "#8a93a6",
    "hairline": "#e6e9ef",
    "paper": "#ffffff",
    "wash": "#f4f6f9",
    "accent": "#00695c",
    "accent-wash": "#e9f4f2",
    "warn": "#6b4300",
    "warn-wash": "#fdf6e7",
    "warn-edge": "#d9a032",
    "bad": "#9c2b1c",
    "bad-wash": "#fbe9e7",
}
DARK: Mapping[str, str] = {
    "ink": "#e8ebf2",
    "soft": "#a9b3c6",
    "faint": "#737e94",
    "hairline": "#2a3242",
    "paper": "#12161f",
    "wash": "#1b212d",
    "accent": "#5fd0bd",
    "accent-wash": "#15302f",
    "warn": "#f2cf8e",
    "warn-wash": "#322812",
    "warn-edge": "#b98422",
    "bad": "#ff9c8c",
    "bad-wash": "#3a1d1a",
}
TEXT_ROLES = ("ink", "soft", "accent")
GROUNDS = ("paper", "wash")

SIZE_RAMP = ("#c07a10", "#cf5a38", "#a8487a", "#5a3d8f", "#1f2f6b")
SIZE_RAMP_DARK = ("#ffd98a", "#ffa87e", "#ea85b4", "#b193f0", "#7f9dff")
"""Small base models to large ones; the light theme's luminance falls along it, so the order survives a grey printer."""
BUDGET_RAMP = ("#5f9cc4", "#4a8fc0", "#2b7bba", "#0f5499", "#0a2f63")
BUDGET_RAMP_DARK = ("#3f78a8", "#5593c4", "#77b2dd", "#a3cff0", "#d5ebfc")
"""Small budgets to large ones."""
GROUPS = ("#2b7bba", "#b9770e", "#3c4f76", "#a8487a", "#4f8a3d", "#c9563a", "#6f7889")
GROUPS_DARK = ("#6db3ea", "#f0b45a", "#9fb2de", "#e88fbd", "#94cf80", "#ff9275", "#a9b3c6")
"""Parts of a model and methods, which have no order: hues that neighbours do not share."""

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "hexagon", "star", "cross", "x", "hexagram")
DASHES = ("solid", "6px,3px", "2px,3px", "9px,3px,2px,3px", "12px,4px")
BUDGETS = 5
"""Budgets of the iso-FLOP picture, each with its role `budget0` and so on."""


def themes(models: int) -> dict[str, dict[str, str]]:
    """Every role's colour in both themes, for a page with so many base models."""
    return {
        "light": {**LIGHT, **_series(models, SIZE_RAMP, BUDGET_RAMP, GROUPS)},
        "dark": {**DARK, **_series(models, SIZE_RAMP_DARK, BUDGET_RAMP_DARK, GROUPS_DARK)},
    }


def _series(models: int, sizes: Sequence[str], budgets: Sequence[str], groups: Sequence[str]) -> dict[str, str]:
    named = {"size": ramp(sizes, models), "budget": ramp(budgets, BUDGETS), "group": groups}
    return {f"{name}{index}": colour for name, colours in named.items() for index, colour in enumerate(colours)}


def css(roles: Mapping[str, str]) -> str:
    """The theme as custom properties of a style sheet."""
    return " ".join(f"--{name}: {colour};" for name, colour in roles.items() if not name[-1].isdigit())


def size(index: int) -> str:
    """Role of the base model in that place, smallest first."""
    return f"@size{index}"


def budget(index: int) -> str:
    return f"@budget{index}"


def group(index: int) -> str:
    """Role of a part or a method; colours come round again, `symbol` then tells them apart."""
    return f"@group{index % len(GROUPS)}"


def marker_symbol(index: int) -> str:
    return SYMBOLS[index % len(SYMBOLS)]


def faded(role: str, opacity: float) -> str:
    return f"{role}/{opacity:g}"


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


def contrast(one: str, other: str) -> float:
    """Contrast of two colours `#rrggbb`, 1 to 21 (WCAG 2.2)."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in _channels(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
