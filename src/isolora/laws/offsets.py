"""One law for a study of several methods, or of bases of several families: each but the first departs from the first.

Of a method: the tokens that reach the law are d exp(o + s ln d / 100,000), so that it makes more or less of a token. Of a family:
they are d exp(o), and the loss is exp(a) times the law's, since its tokens, its floor and its start are its own. All are zero for
the first one; exponents and what the law says of size are shared, so that few runs of each suffice. The law's name lists them,
`power+method[lora|full]+family[nano|smollm2]`, so that a fit can be written down and read back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isolora.laws.base import FAMILY_PREFIX, METHOD_PREFIX, Array, Columns, Law, Shape

_PIVOT = float(np.log(1e5))


@dataclass(frozen=True)
class Kind:
    """What groups are: the prefix of their columns, how a law's name lists them, each group's second parameter beside its offset
    `o` of at most 4 (letter, largest value), and the formula in words."""

    prefix: str
    suffix: str
    second: tuple[str, float]
    formula: str


METHODS = Kind(METHOD_PREFIX, "+method[", ("s", 0.6), "{law}; d -> d exp(o + s ln(d/1e5)), o and s by method, 0 for {first}")
FAMILIES = Kind(FAMILY_PREFIX, "+family[", ("a", 1.5), "exp(a) ({law}); d -> d exp(o), a and o by family, 0 for {first}")
_OFFSET = 4.0


def by_method(law: Law, methods: Sequence[str]) -> Law:
    """The law with an offset and a slope for each method but the first."""
    return _by_group(law, methods, METHODS)


def by_family(law: Law, families: Sequence[str]) -> Law:
    """The law with an offset and a factor for each family of bases but the first."""
    return _by_group(law, families, FAMILIES)


def _by_group(law: Law, names: Sequence[str], kind: Kind) -> Law:
    others, inner = list(names[1:]), len(law.shapes)

    def log_terms(shapes_KQ: Array, logs: Columns) -> Array:
        shift_KM = factor_KM = np.zeros((len(shapes_KQ), 1))
        for k, name in enumerate(others):
            own_M = logs[kind.prefix + name]
            offset_K1, second_K1 = shapes_KQ[:, [inner + 2 * k]], shapes_KQ[:, [inner + 2 * k + 1]]
            if kind is METHODS:
                shift_KM = shift_KM + own_M * (offset_K1 + second_K1 * (logs["d"] - _PIVOT))
            else:
                shift_KM, factor_KM = shift_KM + own_M * offset_K1, factor_KM + own_M * second_K1
        terms_KCM = law.log_terms(shapes_KQ[:, :inner], {**logs, "d": logs["d"] + shift_KM})
        return terms_KCM if kind is METHODS else terms_KCM + factor_KM[:, None, :]

    pairs = (("o", _OFFSET), kind.second)
    return dataclasses.replace(
        law,
        name=f"{law.name}{kind.suffix}{'|'.join(names)}]",
        formula=kind.formula.format(law=law.formula, first=names[0]),
        shapes=(*law.shapes, *(Shape(f"{at}[{name}]", -most, most, start=0.0) for name in others for at, most in pairs)),
        demands={**law.demands, **dict.fromkeys((kind.prefix + name for name in others), 1)},
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
    return _listed(name, METHODS)


def families_in_name(name: str) -> tuple[str, ...]:
    """The families that a law's name lists, none for a law of one family."""
    return _listed(name, FAMILIES)


def _listed(name: str, kind: Kind) -> tuple[str, ...]:
    _, marked, rest = name.partition(kind.suffix)
    return tuple(rest.partition("]")[0].split("|")) if marked else ()
