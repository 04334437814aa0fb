"""Scaling laws of adaptation: one file each, any of them with one of the capacity terms (`additive+slope`)."""

from __future__ import annotations

from isolora import registry
from isolora.errors import ConfigError, unknown
from isolora.laws.base import METHOD_PREFIX, Array, Columns, Law, Shape
from isolora.laws.capacity import CAPACITIES
from isolora.laws.method_offsets import SUFFIX, by_method, method_columns, methods_in_name

__all__ = [
    "METHOD_PREFIX",
    "Array",
    "Columns",
    "Law",
    "Shape",
    "by_method",
    "law_names",
    "method_columns",
    "methods_in_name",
    "resolve",
]


def law_names() -> list[str]:
    """Every law by itself and with each capacity term, simplest first within a law."""
    return [name for plain in registry.usable("law") for name in (plain, *(f"{plain}+{term}" for term in _terms(plain)))]


def _terms(plain: str) -> list[str]:
    """The capacity terms that a law can take: all, where it reads tokens."""
    law: Law = registry.load_plug_in("law", plain)
    return list(CAPACITIES) if "d" in law.demands else []


def resolve(name: str) -> Law:
    """The law of that name or of that alias (`chinchilla`, `zhang`, `muennighoff`). Raises ConfigError, naming the valid
    choices, when there is none."""
    if SUFFIX in name:
        return by_method(resolve(name.partition(SUFFIX)[0]), methods_in_name(name))
    plain, _, term = name.partition("+")
    law: Law = registry.load_plug_in("law", _named(plain))
    if not term:
        return law
    if term not in _terms(law.name):
        raise ConfigError(unknown("capacity term", term, _terms(law.name)))
    return CAPACITIES[term](law)


def _named(name: str) -> str:
    """A law's own name for one of its aliases; a name that is neither is left to the registry to refuse."""
    known = registry.names("law")
    if name in known:
        return name
    for own in known:
        law: Law = registry.load_plug_in("law", own)
        if name.lower() in map(str.lower, law.aliases):
            return own
    return name
