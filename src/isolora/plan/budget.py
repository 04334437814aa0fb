"""Amounts as a person writes them: a budget (`1e15flops`, `2h`, `20usd`), a memory (`16GB`), tokens to serve (`1e9tokens`)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from isolora.display import time_in_words
from isolora.errors import UserError

_FORM = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([a-z]+)\s*", re.IGNORECASE)
_BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "tib": 2.0**40}
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_FLOPS = ("flops", "flop")
_MONEY = ("usd", "eur", "gbp", "chf", "jpy", "cny", "inr")
_TOKENS = {"tokens": 1.0, "ktokens": 1e3, "mtokens": 1e6, "btokens": 1e9}
_BUDGETS = "such as 1e15flops, 90s, 30min, 2h, 1d, 20usd"
_MEMORIES = "such as 16GB, 500MB, 8GiB"
DEFAULT_BUDGET = 4.0
"""Times the largest run's FLOPs, where no budget is asked for: far enough to be a prediction."""


@dataclass(frozen=True)
class Budget:
    """An amount of compute; `unit` is "flops" or "seconds". `price_per_hour` turns seconds into money, where it is known;
    `charged` is what has been taken off the whole before."""

    amount: float
    unit: str
    price_per_hour: float | None = None
    charged: float = 0.0

    @property
    def whole(self) -> float:
        return self.amount + self.charged

    def scaled(self, factor: float) -> Budget:
        """So many times the whole, with the same taken off."""
        return replace(self, amount=self.whole * factor - self.charged)

    def __str__(self) -> str:
        return f"{self.amount:.3g} FLOPs" if self.unit == "flops" else time_in_words(self.amount)


def parse_budget(text: str, price_per_hour: float | None = None) -> Budget:
    """Raises UserError, one line naming the valid forms, for a negative, zero or infinite amount and an unknown unit, and for
    money without a price of an hour."""
    units = {**dict.fromkeys(_FLOPS, 1.0), **_SECONDS, **dict.fromkeys(_MONEY, 1.0)}
    amount, unit = _parse("budget", text, units, _BUDGETS)
    if price_per_hour is not None and not (math.isfinite(price_per_hour) and price_per_hour > 0):
        raise UserError(f"price per hour {price_per_hour:g} is not a positive amount")
    if unit not in _MONEY:
        return Budget(amount, "flops" if unit in _FLOPS else "seconds", price_per_hour)
    if price_per_hour is None:
        raise UserError(f"budget {text!r} is money; say what an hour costs with --price-per-hour")
    return Budget(amount / price_per_hour * 3600.0, "seconds", price_per_hour)


def parse_memory(text: str) -> float:
    """Bytes; UserError as for a budget."""
    return _parse("memory", text, _BYTES, _MEMORIES)[0]


def parse_tokens(text: str) -> float:
    """Tokens to be served; UserError as for a budget."""
    return _parse("serve", text, _TOKENS, "such as 1e9tokens, 500Mtokens")[0]


def _parse(field: str, text: str, units: Mapping[str, float], examples: str) -> tuple[float, str]:
    found = _FORM.fullmatch(text)
    unit = found[2].lower() if found else ""
    if found is None or unit not in units:
        raise UserError(f"{field} {text!r} is not understood (valid: a number above zero with a unit, {examples})")
    amount = float(found[1]) * units[unit]
    if not (math.isfinite(amount) and amount > 0):
        raise UserError(f"{field} {text!r} is not a positive amount (valid: a number above zero with a unit, {examples})")
    return amount, unit
