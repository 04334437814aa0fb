"""Scaling laws of adaptation: one file each, any of them with one of the capacity terms (`additive+slope`)."""

from __future__ import annotations

import re
from functools import cache

import numpy as np

from isolora import registry
from isolora.errors import ConfigError, unknown
from isolora.laws.base import (
    FAMILY_PREFIX,
    GROUP_PREFIXES,
    METHOD_PREFIX,
    Array,
    Columns,
    Design,
    Law,
    Shape,
    bunches,
    distinct,
)
from isolora.laws.capacity import CAPACITIES
from isolora.laws.offsets import (
    by_family,
    by_method,
    families_in_name,
    family_columns,
    method_columns,
    methods_in_name,
)

__all__ = [
    "FAMILY_PREFIX",
    "GROUP_PREFIXES",
    "METHOD_PREFIX",
    "Array",
    "Columns",
    "Design",
    "Law",
    "Shape",
    "bunches",
    "by_family",
    "by_method",
    "distinct",
    "families_in_name",
    "family_columns",
    "law_names",
    "method_columns",
    "methods_in_name",
    "resolve",
]


_OF_SEVERAL = re.compile(r"(.+)\+(method|family)\[([^\]]*)\]")


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
    if of_several := _OF_SEVERAL.fullmatch(name):
        inner, kind, names = of_several.groups()
        return (by_method if kind == "method" else by_family)(resolve(inner), names.split("|"))
    plain, _, term = name.partition("+")
    law = _checked(_named(plain))
    if not term:
        return law
    if term not in _terms(law.name):
        raise ConfigError(unknown("capacity term", term, _terms(law.name)))
    return CAPACITIES[term](law)


@cache
def _checked(name: str) -> Law:
    """A law by its own name. Raises PlugInError, one line, where the terms of one from outside have not the shape that fits read:
    three points and two parameter vectors tell."""
    law: Law = registry.load_plug_in("law", name)
    if not registry.package_of("law", name):
        return law
    registry.owed("law", name, isinstance(law, Law), f"its object is of {type(law).__name__}; expected Law")
    logs = {column: np.log([1e4, 1e5, 1e6]) for column in law.demands}
    bounds = [shape.bounds(logs) for shape in law.shapes]
    shapes_KQ = np.array([[low + share * (high - low) for low, high in bounds] for share in (0.3, 0.6)]).reshape(2, len(bounds))
    found = np.shape(law.log_terms(shapes_KQ, logs))
    wanted = (2, len(law.coefficients), 3)
    line = (
        f"log_terms() gave shape {found}; expected {wanted}: parameter vectors, coefficients, points (see isolora.extend.stack)"
    )
    registry.owed("law", name, found == wanted, line)
    return law


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
