"""One law for a study of several methods, or of bases of several families: each but the first departs from the first.

Of a method: the tokens that reach the law are d exp(o + s ln d / 100,000), so that it makes more or less of a token. Of a family:
they are d exp(o), and the loss is exp(a) times the law's, since its tokens, its floor and its start are its own. All are zero for
the first one; exponents and what the law says of size are shared, so that few runs of each suffice. The law's name lists them,
`power+method[lora|full]+family[nano|smollm2]`, so that a fit can be written down and read back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from isolora.laws.base import FAMILY_PREFIX, METHOD_PREFIX, Array, Columns, Law, Shape

METHOD_SUFFIX, FAMILY_SUFFIX = "+method[", "+family["
_PIVOT = float(np.log(1e5))
_OFFSET, _SLOPE, _FACTOR = 4.0, 0.6, 1.5


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
        name=f"{law.name}{METHOD_SUFFIX}{'|'.join(methods)}]",
        formula=f"{law.formula}; d -> d exp(o + s ln(d/1e5)), o and s by method, 0 for {methods[0]}",
        shapes=(*law.shapes, *shapes),
        demands={**law.demands, **dict.fromkeys((METHOD_PREFIX + method for method in others), 1)},
        log_terms=log_terms,
    )


def by_family(law: Law, families: Sequence[str]) -> Law:
    """The law with an offset and a factor for each family of bases but the first."""
    others, inner = list(families[1:]), len(law.shapes)

    def log_terms(shapes_KQ: Array, logs: Columns) -> Array:
        shift_KM = factor_KM = np.zeros((len(shapes_KQ), 1))
        for k, family in enumerate(others):
            own_M = logs[FAMILY_PREFIX + family]
            shift_KM = shift_KM + own_M * shapes_KQ[:, [inner + 2 * k]]
            factor_KM = factor_KM + own_M * shapes_KQ[:, [inner + 2 * k + 1]]
        terms_KCM = law.log_terms(shapes_KQ[:, :inner], {**logs, "d": logs["d"] + shift_KM})
        return terms_KCM + factor_KM[:, None, :]

    shapes = [
        shape
        for family in others
        for shape in (Shape(f"o[{family}]", -_OFFSET, _OFFSET, start=0.0), Shape(f"a[{family}]", -_FACTOR, _FACTOR, start=0.0))
    ]
    return dataclasses.replace(
        law,
        name=f"{law.name}{FAMILY_SUFFIX}{'|'.join(families)}]",
        formula=f"exp(a) ({law.formula}); d -> d exp(o), a and o by family, 0 for {families[0]}",
        shapes=(*law.shapes, *shapes),
        demands={**law.demands, **dict.fromkeys((FAMILY_PREFIX + family for family in others), 1)},
        log_terms=log_terms,
    )


def method_columns(method_M: Sequence[str], methods: Sequence[str]) -> dict[str, Array]:
    """The columns that a law of these methods reads, (M,) each."""
    return _columns(METHOD_PREFIX, method_M, methods)


def family_columns(family_M: Sequence[str], families: Sequence[str]) -> dict[str, Array]:
    """The columns that a law of these families reads, (M,) each."""
    return _columns(FAMILY_PREFIX, family_M, families)


def _columns(prefix: str, name_M: Sequence[str], names: Sequence[str]) -> dict[str, Array]:
    return {prefix + name: np.where(np.asarray(name_M, dtype=object) == name, np.e, 1.0) for name in names[1:]}


def methods_in_name(name: str) -> tuple[str, ...]:
    """The methods that a law's name lists, none for a law of one method."""
    return _listed(name, METHOD_SUFFIX)


def families_in_name(name: str) -> tuple[str, ...]:
    """The families that a law's name lists, none for a law of one family."""
    return _listed(name, FAMILY_SUFFIX)


def _listed(name: str, suffix: str) -> tuple[str, ...]:
    _, marked, rest = name.partition(suffix)
    return tuple(rest.partition("]")[0].split("|")) if marked else ()
