"""Figures in words: how the page writes counts, FLOPs, losses and durations."""

from __future__ import annotations

import math
import re

from markupsafe import Markup, escape

from isolora.display import short as short
from isolora.display import time_in_words as time_in_words

_INNER = r"[^()]|\((?:[^()]|\([^()]*\))*\)"
_EXPONENT = re.compile(rf"\^(-?[\w.]+|\((?:{_INNER})*\))")
_LARGE = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power(exponent: int) -> str:
    """10¹³."""
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def count(value: float) -> str:
    """12,400 or 3.21 million: three digits or so, and no more than a person reads."""
    for size, word in _LARGE:
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {word}"
    return f"{value:,.0f}"


def plural(number: int, noun: str) -> str:
    """'1 run', '12 runs'."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def flops_in_words(value: float) -> str:
    """4.2 × 10¹³."""
    if not (math.isfinite(value) and value > 0):
        return "0"
    exponent = math.floor(math.log10(value))
    mantissa = round(value / 10.0**exponent, 1)
    if mantissa >= 10:
        mantissa, exponent = mantissa / 10, exponent + 1
    return f"{mantissa:.1f} × {power(exponent)}"


def passes(value: float) -> str:
    """'one pass', '2.5 passes'."""
    if abs(value - 1) < 0.005:
        return "one pass"
    return f"{value:.2g} of a pass" if value < 1 else f"{value:.3g} passes"


def percent(share: float) -> str:
    """0.53 % below one per cent, 12 % above ten."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 else f"{value:.1f} %" if value >= 1 else f"{value:.2f} %"


def parameter(value: float) -> str:
    """Four digits, scientific notation only where it is shorter."""
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        exponent = math.floor(math.log10(abs(value)))
        return f"{value / 10.0**exponent:.3f} × {power(exponent)}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def formula_html(text: str) -> Markup:
    """A law's formula with its exponents raised: 'A n^-a' becomes A n<sup>−a</sup>."""
    return Markup(_raised(str(escape(text).replace(" -&gt; ", " → "))))


def _raised(text: str) -> str:
    """Exponents within exponents too; one that is raised needs no parentheses around it."""
    return _EXPONENT.sub(lambda found: f"<sup>{_raised(_bare(found[1])).replace('-', '−')}</sup>", text)


def _bare(exponent: str) -> str:
    return exponent[1:-1] if exponent.startswith("(") else exponent
