"""Scaling laws of adaptation: one file each, any of them with one of the capacity terms (`additive+slope`)."""

from __future__ import annotations

from isolora import registry
from isolora.errors import ConfigError, unknown
from isolora.laws._base import Array, Columns, Law, Shape
from isolora.laws._capacity import CAPACITIES

__all__ = ["Array", "Columns", "Law", "Shape", "names", "resolve"]


def names() -> list[str]:
    """Every law by itself and with each capacity term, simplest first within a law."""
    return [name for plain in registry.names("law") for name in (plain, *(f"{plain}+{term}" for term in CAPACITIES))]


def resolve(name: str) -> Law:
    """The law of that name. Raises ConfigError, naming the valid choices, when there is none."""
    plain, _, term = name.partition("+")
    law: Law = registry.load("law", plain)
    if not term:
        return law
    if term not in CAPACITIES:
        raise ConfigError(unknown("capacity term", term, CAPACITIES))
    return CAPACITIES[term](law)
