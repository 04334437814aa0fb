"""One law for a study of several methods: each method other than the first makes more or less of a token.

The tokens that reach the law are d exp(o + s ln(d / 100,000)): `o` is a method's offset, `s` its slope, both zero for the
first one. Base, floor and exponents are shared, so that few runs of each method suffice. The law's name lists the methods,
`power+method[lora|full]`, so that a fit can be written down and read back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from isolora.laws.base import METHOD_PREFIX, Array, Columns, Law, Shape

SUFFIX = "+method["
_PIVOT = float(np.log(1e5))
_OFFSET, _SLOPE = 4.0, 0.6


def by_method(law: Law, methods: Sequence[str]) -> Law:
    """The law with an offset and a slope for each method but the first."""
    others, inner = list(methods[1:]), len(law.shapes)

    def log_terms(shapes_KQ: Array, logs: Columns) -> Array:
        shift_KM = np.zeros((len(shapes_KQ), 1))
        for k, method in enumerate(others):
            offset_K1, slope_K1 = shapes_KQ[:, [inner + 2 * k]], shapes_KQ[:, [inner + 2 * k + 1]]
            shift_KM = shift_KM + logs[METHOD_PREFIX + method] * (offset_K1 + slope_K1 * (logs["d"] - _PIVOT))
        return law.log_terms(shapes_KQ[:, :inner], {**logs, "d": logs["d"] + shift_KM})

    shapes = [
        shape
        for method in others
        for shape in (Shape(f"o[{method}]", -_OFFSET, _OFFSET, start=0.0), Shape(f"s[{method}]", -_SLOPE, _SLOPE, start=0.0))
    ]
    return dataclasses.replace(
        law,
        name=f"{law.name}{SUFFIX}{'|'.join(methods)}]",
        formula=f"{law.formula}; d -> d exp(o + s ln(d/1e5)), o and s by method, 0 for {methods[0]}",
        shapes=(*law.shapes, *shapes),
        demands={**law.demands, **dict.fromkeys((METHOD_PREFIX + method for method in others), 1)},
        log_terms=log_terms,
    )


def method_columns(method_M: Sequence[str], methods: Sequence[str]) -> dict[str, Array]:
    """The columns that such a law reads, (M,) each."""
    return {METHOD_PREFIX + name: np.where(np.asarray(method_M, dtype=object) == name, np.e, 1.0) for name in methods[1:]}


def methods_in_name(name: str) -> tuple[str, ...]:
    """The methods that a law's name lists, none for a law of one method."""
    _, marked, rest = name.partition(SUFFIX)
    return tuple(rest.removesuffix("]").split("|")) if marked else ()
