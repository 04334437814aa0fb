"""A law's formula as data, read off the law's own Python: its terms are computed on symbols that note each operation.

So no formula is written twice, and a plug-in's law moves the page's sliders too, as long as it keeps to arithmetic and the
functions below. A node is a number, ["theta", k], ["column", name] for the logarithm of a
column, or [operation, node, node].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from isolora.laws import Array, Law

Node = float | list[Any]

OPERATIONS = (
    *("add", "subtract", "multiply", "divide", "negative", "minimum", "maximum", "logaddexp"),
    *("exp", "log", "log1p", "expm1", "sqrt", "square", "power"),
)
"""numpy's names; the page's script knows the same ones."""


def symbolic_log_terms(law: Law) -> list[Node]:
    """The logarithm of each term, in the law's order of coefficients. Raises TypeError for a law that does something else.

    ["theta", k] is the k-th parameter as a search sees it (coefficients first, then shapes), ["column", "d"] the logarithm of d.
    """
    first = len(law.coefficients)
    shapes = Shapes(list(range(first, first + len(law.shapes))))
    logs = {name: Symbol(["column", name]) for name in law.demands}
    try:
        found: Any = law.log_terms(cast(Array, shapes), cast(Any, logs))
    except Exception as failure:  # a plug-in's law may ask symbols for what only numbers have
        raise TypeError(f"law {law.name!r} is no plain formula ({failure})") from failure
    if not isinstance(found, Terms):
        raise TypeError(f"law {law.name!r} does not give its terms by `stack`")
    return [term.node for term in found.terms]


class Symbol(NDArrayOperatorsMixin):
    """A value that stands for itself: operations on it give further symbols. Of any shape, as every point is alike."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def node(self) -> Node:
        return self._node

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **keywords: Any) -> Any:
        name = {"true_divide": "divide"}.get(ufunc.__name__, ufunc.__name__)
        if method != "__call__" or keywords or name not in OPERATIONS:
            return NotImplemented
        return Symbol([name, *(as_symbol(value).node for value in inputs)])

    def __array_function__(self, function: Callable[..., Any], types: Any, arguments: Any, keywords: Any) -> Any:
        return _combined(function, arguments)

    def __getitem__(self, index: Any) -> Symbol:
        """More axes or fewer: the same value."""
        return self


class Shapes(Symbol):
    """The shape parameters (K, Q); a slice of one column is its value."""

    def __init__(self, places: list[int]) -> None:
        self._places = places

    @property
    def node(self) -> Node:
        [place] = self._places
        return ["theta", place]

    def __getitem__(self, index: Any) -> Shapes:
        _, columns = index
        chosen = np.array(self._places)[columns]
        return Shapes([int(place) for place in np.atleast_1d(chosen)])

    def __len__(self) -> int:
        return 1


class Terms(NDArrayOperatorsMixin):
    """Symbols along the axis of terms; operations are on each of them."""

    def __init__(self, terms: Sequence[Symbol]) -> None:
        self.terms = list(terms)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: object, **keywords: object) -> Terms:
        rows = ([value.terms[k] if isinstance(value, Terms) else value for value in inputs] for k in range(len(self.terms)))
        return Terms([as_symbol(getattr(ufunc, method)(*row, **keywords)) for row in rows])

    def __array_function__(self, function: Callable[..., Any], types: Any, arguments: Any, keywords: Any) -> Any:
        return _combined(function, arguments)


def as_symbol(value: object) -> Symbol:
    """A number, or an array of one, as a symbol; a symbol as it is."""
    return value if isinstance(value, Symbol) else Symbol(float(np.asarray(value, dtype=float).item()))


def _combined(function: Callable[..., Any], arguments: Any) -> Any:
    """What `stack` and a capacity term do with terms: bring to one shape, put side by side, append."""
    if function is np.broadcast_arrays:
        return [as_symbol(value) for value in arguments]
    if function is np.stack:
        return Terms([as_symbol(value) for value in arguments[0]])
    if function is np.concatenate:
        parts = arguments[0]
        return Terms([term for part in parts for term in (part.terms if isinstance(part, Terms) else [as_symbol(part)])])
    return NotImplemented
