"""What an adapter can hold, added to any law: as a floor or as a slope.

`+capacity` adds a floor C p^-c. `+slope` leaves the law as it is and changes the tokens that reach it: beyond a pivot of F
tokens only the share 1 / (1 + sqrt(P/p)) of their exponent is left, so that small adapters flatten early. On three nano bases
(ranks 2, 8, 32; fitted up to 35,000 to 95,000 tokens, judged at four times that) the additive and multiplicative laws
missed by 0.4 and 0.3 % with a slope, by 0.9 and 0.7 % with a floor. Tokens that level off at S p^s, as in Kaplan et al.
(2001.08361, eq. 1.5), were as good at twice the range and missed by 1.0 and 0.8 % at four times: left out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from isolora.laws.base import Array, Columns, Law, Shape

_DISTINCT_P = 3


@dataclass(frozen=True)
class Capacity:
    """A way for trainable parameters p to enter a law: `apply(law)` gives the law with it."""

    name: str
    formula: str
    apply: Callable[[Law, Capacity], Law]

    def __call__(self, law: Law) -> Law:
        return self.apply(law, self)


def _floor(law: Law, capacity: Capacity) -> Law:
    inner = len(law.shapes)

    def log_terms(shapes_KQ: Array, logs: Columns) -> Array:
        terms_KCM = law.log_terms(shapes_KQ[:, :inner], logs)
        floor_KM = -shapes_KQ[:, inner:] * logs["p"]
        return np.concatenate([terms_KCM, floor_KM[:, None, :]], axis=1)

    extended = _extended(law, capacity, (Shape("c"),), log_terms)
    return dataclasses.replace(extended, coefficients=(*law.coefficients, "C"))


def _slope(law: Law, capacity: Capacity) -> Law:
    inner = len(law.shapes)

    def log_terms(shapes_KQ: Array, logs: Columns) -> Array:
        half_K1, pivot_K1 = shapes_KQ[:, [inner]], shapes_KQ[:, [inner + 1]]
        share_KM = 1.0 / (1.0 + np.exp(0.5 * (half_K1 - logs["p"])))
        return law.log_terms(shapes_KQ[:, :inner], {**logs, "d": pivot_K1 + share_KM * (logs["d"] - pivot_K1)})

    shapes = (Shape("P", -6.0, 2.0, log=True, column="p"), Shape("F", -4.0, 0.0, log=True, column="d"))
    return _extended(law, capacity, shapes, log_terms)


def _extended(law: Law, capacity: Capacity, shapes: tuple[Shape, ...], log_terms: Callable[[Array, Columns], Array]) -> Law:
    """A shape of the term that the law has a parameter of the same name for gets a 2 behind it: a fit is kept by names."""
    own = {shape.name: f"{shape.name}2" if shape.name in law.parameters else shape.name for shape in shapes}
    formula = re.sub(r"\w+", lambda word: own.get(word[0], word[0]), capacity.formula)
    return dataclasses.replace(
        law,
        name=f"{law.name}+{capacity.name}",
        formula=f"{law.formula}; {formula}",
        shapes=(*law.shapes, *(dataclasses.replace(shape, name=own[shape.name]) for shape in shapes)),
        demands={**law.demands, "p": _DISTINCT_P},
        log_terms=log_terms,
    )


CAPACITIES: Mapping[str, Capacity] = {
    capacity.name: capacity
    for capacity in (
        Capacity("capacity", "+ C p^-c", _floor),
        Capacity("slope", "d -> F (d/F)^(1/(1+(P/p)^0.5))", _slope),
    )
}
