"""What a scaling law is: a sum of non-negative coefficients times terms whose shapes are set by a few exponents.

Splitting the parameters so lets the coefficients be solved exactly inside any search over the shapes (variable
projection, 2603.22339). Array suffixes: K parameter vectors, M points, C coefficients, Q shapes, T = C + Q.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isolora.errors import TableError

Array = NDArray[np.float64]
Columns = Mapping[str, Array]
"""Short name -> values: n body parameters, d tokens, p trainable parameters, u unique tokens, c FLOPs; all positive."""

EXPONENT_BOUNDS = (0.01, 2.0)
METHOD_PREFIX, FAMILY_PREFIX = GROUP_PREFIXES = ("m:", "f:")
"""Columns `m:NAME` hold e where a point is of that method, else 1: their logarithms are ones and zeros; `f:NAME` likewise where
its base is of that family."""
_POINTS_PER_GROUP = 3
_SAME, _WIDEST = 0.05, 0.2
"""Natural logarithms: members of a stack pass a token count by up to a batch, a few per cent of the first counts; no bunch of
them is wider than that, for a run that is measured at every step has no gap at all."""


class Design(Mapping[str, Array]):
    """Columns that many laws are asked about: what differs in them is found out once."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._distinct: dict[str, Array] = {}
        self._varies: dict[tuple[str, ...], bool] = {}

    @classmethod
    def of(cls, columns: Columns) -> Design:
        return columns if isinstance(columns, Design) else cls(columns)

    def __getitem__(self, name: str) -> Array:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def distinct(self, name: str) -> Array:
        """The values of a column that can be told apart."""
        if name not in self._distinct:
            self._distinct[name] = distinct(self[name])
        return self._distinct[name]

    def varies_within(self, name: str, groups: Sequence[str]) -> bool:
        """Whether some group, told by one or several columns, has several values of another."""
        key = (name, *groups)
        if key not in self._varies:
            told = [self[group] for group in groups]
            self._varies[key] = _count_of([*told, self[name]]) > _count_of(told)
        return self._varies[key]


@dataclass(frozen=True)
class Shape:
    """A non-linear parameter; `low` and `high` bound it, in its own units or, with `log`, in their natural logarithm.

    With `column` the bounds are offsets from that column's smallest and largest logarithm, so that a pivot in tokens
    is looked for where the data are.
    """

    name: str
    low: float = EXPONENT_BOUNDS[0]
    high: float = EXPONENT_BOUNDS[1]
    log: bool = False
    column: str = ""
    start: float | None = None
    """Where half of the starts of a search lie, for what is zero unless the data say otherwise."""

    def bounds(self, logs: Columns) -> tuple[float, float]:
        if not self.column:
            return self.low, self.high
        return float(logs[self.column].min()) + self.low, float(logs[self.column].max()) + self.high


@dataclass(frozen=True)
class Law:
    """A law in the columns of `demands`; parameter order is coefficients, then shapes.

    `log_terms(shapes_KQ, logs)` gives the logarithm of each term, (K, C, M), from natural logarithms of the columns,
    each (M,) or (K, M). `demands` says how many distinct values of each column it takes to tell the parameters apart.
    """

    name: str
    citation: str
    formula: str
    coefficients: tuple[str, ...]
    shapes: tuple[Shape, ...]
    demands: Mapping[str, int]
    log_terms: Callable[[Array, Columns], Array]
    grows: bool = False
    """For what rises with tokens. Such a law is fitted when it is asked for; it does not compete for a loss."""
    anchored: bool = False
    """It has a value at 0 tokens, so that what the bare base scores is a point to fit it to."""
    last_resort: bool = False
    """It competes only where no other law can be fitted."""
    two_sizes: bool = False
    """It competes only where the table has two sizes: more of them carry better ones."""
    sentence: str = ""
    """What the law says, in words, for the reference."""
    aliases: tuple[str, ...] = ()
    """Other names that people know it by."""

    @property
    def parameters(self) -> tuple[str, ...]:
        return (*self.coefficients, *(shape.name for shape in self.shapes))

    def predict(self, theta: Array, columns: Columns) -> Array:
        """Loss in nats per token: (M,) for one parameter vector (T,), (K, M) for many (K, T)."""
        theta_KT = np.atleast_2d(np.asarray(theta, dtype=float))
        logs = {name: np.log(np.asarray(columns[name], dtype=float)) for name in self.demands}
        count = len(self.coefficients)
        terms_KCM = self.log_terms(self.searched(theta_KT[:, count:]), logs)
        loss_KM = np.einsum("kc,kcm->km", theta_KT[:, :count], np.exp(terms_KCM))
        loss: Array = loss_KM if np.ndim(theta) == 2 else loss_KM[0]
        return loss

    def searched(self, shapes_KQ: Array) -> Array:
        """Shapes as a search sees them: the logarithm of those that declare it."""
        return np.where(self._in_log, np.log(np.where(self._in_log, shapes_KQ, 1.0)), shapes_KQ)

    def natural(self, searched_KQ: Array) -> Array:
        """The inverse of `searched`."""
        return np.where(self._in_log, np.exp(np.where(self._in_log, searched_KQ, 0.0)), searched_KQ)

    @property
    def _in_log(self) -> NDArray[np.bool_]:
        return np.array([shape.log for shape in self.shapes], dtype=bool)

    def demand(self, columns: Columns) -> None:
        """Raises TableError, one line, when the points cannot tell this law's parameters apart."""
        design = Design.of(columns)
        for name, needed in self.demands.items():
            if name.startswith(GROUP_PREFIXES):
                self._demand_group(name, design)
                continue
            if name not in columns:
                raise TableError(f"law {self.name!r} needs a column {name}; map one with --map {name}=COLUMN")
            found = design.distinct(name)
            if found.size < needed:
                shown = ", ".join(f"{value:g}" for value in found[:4])
                raise TableError(
                    f"law {self.name!r} needs {needed} or more distinct {name}; the table has {found.size} ({shown})"
                )
        if "p" in self.demands and "n" in self.demands and not design.varies_within("p", ["n"]):
            raise TableError(f"law {self.name!r} needs two or more distinct p at one n; every size in the table has only one")
        families = [name for name in self.demands if name.startswith(FAMILY_PREFIX)]
        if families and "n" in self.demands and not design.varies_within("n", families):
            raise TableError(f"law {self.name!r} needs two or more distinct n in one family of bases; every family has only one")
        if "u" in self.demands and not (columns["d"] > columns["u"]).any():
            raise TableError(f"law {self.name!r} needs points beyond the first pass over their data; the table has none")

    def _demand_group(self, name: str, columns: Design) -> None:
        count = int((columns[name] > 1).sum()) if name in columns else 0
        if count < _POINTS_PER_GROUP:
            kind = "method" if name.startswith(METHOD_PREFIX) else "family"
            line = f"{kind} {name[len(METHOD_PREFIX) :]!r} has {count} points here"
            raise TableError(f"{line}; a law of several needs {_POINTS_PER_GROUP} of each")


def stack(*terms: Array | float) -> Array:
    """Terms (K, M) or scalars as one array (K, C, M): points last, so that sums over the few terms run along memory."""
    if not all(isinstance(term, (np.ndarray, float)) for term in terms):  # symbols, of which a report reads the formula
        return np.stack(np.broadcast_arrays(*terms), axis=1)
    count_K, *rest = np.broadcast(*terms).shape
    stacked = np.empty((count_K, len(terms), *rest))
    for c, term in enumerate(terms):  # a fit stacks thousands of times: np.stack of broadcast arrays takes twice as long
        stacked[:, c] = term
    return stacked


def bunches(x_M: Array, gap: float, widest: float) -> NDArray[np.int64]:
    """The number of the bunch that each of some ascending values is in, (M,): values closer than `gap` are in one, unless it
    would be wider than `widest`."""
    apart_M = np.diff(x_M, prepend=x_M[0]) > gap
    first_M = x_M[np.maximum.accumulate(np.where(apart_M, np.arange(len(x_M)), 0))]
    part_M = np.floor((x_M - first_M) / widest)
    return np.cumsum(apart_M | (np.diff(part_M, prepend=0.0) != 0)).astype(np.int64)


def distinct(values: Array) -> Array:
    """Values further apart than a batch's jitter in tokens."""
    ordered = np.unique(values)
    number = bunches(np.log(ordered), _SAME, _WIDEST)
    return ordered[np.flatnonzero(np.diff(number, prepend=-1))]


def _count_of(columns: Sequence[Array]) -> int:
    """How many rows of these columns differ."""
    values = np.stack(columns)
    ordered = values[:, np.lexsort(values)]
    return 1 + int((np.diff(ordered, axis=1) != 0).any(axis=0).sum())
