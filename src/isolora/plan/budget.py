"""Amounts as a person writes them: a budget (`1e15flops`, `90s`, `30min`, `2h`) and a memory (`16GB`)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from isolora.errors import UserError

_FORM = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([a-z]+)\s*", re.IGNORECASE)
_BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "tib": 2.0**40}
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_FLOPS = ("flops", "flop")
_BUDGETS = "such as 1e15flops, 90s, 30min, 2h, 1d"
_MEMORIES = "such as 16GB, 500MB, 8GiB"


@dataclass(frozen=True)
class Budget:
    """An amount of compute; `unit` is "flops" or "seconds"."""

    amount: float
    unit: str


def parse_budget(text: str) -> Budget:
    """Raises UserError, one line naming the valid forms, for a negative, zero or infinite amount and an unknown unit."""
    amount, unit = _parse("budget", text, {**dict.fromkeys(_FLOPS, 1.0), **_SECONDS}, _BUDGETS)
    return Budget(amount, "flops" if unit in _FLOPS else "seconds")


def parse_memory(text: str) -> float:
    """Bytes; UserError as for a budget."""
    return _parse("memory", text, _BYTES, _MEMORIES)[0]


def _parse(field: str, text: str, units: Mapping[str, float], examples: str) -> tuple[float, str]:
    found = _FORM.fullmatch(text)
    unit = found[2].lower() if found else ""
    if found is None or unit not in units:
        raise UserError(f"{field} {text!r} is not understood (valid: a number above zero with a unit, {examples})")
    amount = float(found[1]) * units[unit]
    if not (math.isfinite(amount) and amount > 0):
        raise UserError(f"{field} {text!r} is not a positive amount (valid: a number above zero with a unit, {examples})")
    return amount, unit
