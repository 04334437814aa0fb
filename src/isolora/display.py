"""How isolora's objects show themselves in a notebook: text and tables as escaped HTML, pictures by whoever can draw them.

A fitted law or a plan lies on a lower floor than the figures of the report, so it does not import them. It asks `drawn` for
its picture by kind; the public surface (`isolora/__init__.py`) says which function draws which kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as PlotlyFigure

Drawer = Callable[..., "PlotlyFigure"]
_DRAWERS: dict[str, Callable[[], Drawer]] = {}


def register_drawer(kind: str, load: Callable[[], Drawer]) -> None:
    """`load` is called when a picture of that kind is first wanted, so that plotly is not imported before."""
    _DRAWERS[kind] = load


def drawn(kind: str, *given: object) -> PlotlyFigure:
    """The picture of what is given, as a plotly figure."""
    return _DRAWERS[kind]()(*given)


def text_html(text: str) -> str:
    """Aligned text as a notebook shows it, its signs escaped."""
    return f"<pre>{escape(text)}</pre>"


def table_html(columns: Mapping[str, Iterable[object]], caption: str) -> str:
    """Rows under their names; every cell is escaped."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(_cell(value))}</td>' for value in row)}</tr>" for row in zip(*columns.values(), strict=True)
    )
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def short(value: float, digits: int = 3) -> str:
    """12400 -> '12.4k', so many digits at most."""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= (1 - 0.5 * 10**-digits) * size:
            return f"{value / size:.{digits}g}{suffix}"
    return f"{value:.{digits}g}"


def money_in_words(amount: float) -> str:
    """Two decimals; of less than that, two digits."""
    return f"{amount:,.2f}" if amount >= 0.01 or not amount else f"{amount:.2g}"


def time_in_words(seconds: float) -> str:
    """41.2 s, 3.5 min, 10.0 h, 4.0 days: a unit from two of it on."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:,.1f} days"
