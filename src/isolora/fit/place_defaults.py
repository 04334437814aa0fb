"""What a place leaves out, taken from the study: the size of its model, the trained weights of its rank, the price of a token.

Whatever is taken is said. Trained weights of a rank that was not measured are those of a measured one times the ranks' ratio;
of a model that was not measured they follow a power of the size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isolora.errors import TableError, unknown
from isolora.fit.fit_points import methods_of
from isolora.laws import Array
from isolora.table import Table, known_sizes

_FEWEST_SIZES = 2
_SAME_SIZE = 0.01
"""Of the logarithm: what people round a size by."""


@dataclass(frozen=True)
class _Place:
    """A place in a person's words; what it does not say is NaN or empty."""

    model: str
    method: str
    rank: float


def with_defaults(places: Table, table: Table, reads: Collection[str] = ()) -> tuple[Table, tuple[str, ...]]:
    """The places with what the study knows about them, and sentences about what was taken. What a place says itself is kept.

    reads: columns that the laws read, in their short names. Raises TableError, one line, for a model of unknown size and for a
    method that the study has not.
    """
    notes: dict[str, None] = {}
    asked = [_place(places, row) for row in range(len(places))]
    untold = "p" in reads and "trainable_parameters" in table and _lacking(places.columns, "trainable_parameters")
    if not (untold or any(name in places for name in ("model", "rank", "method", "unique_examples"))):
        return places, places.notes
    chosen = [_completed(place, table, notes) for place in asked]
    columns = dict(places.columns)

    def fill(name: str, of_row: Callable[[int], float]) -> None:
        """The column's missing rows."""
        given = columns.get(name, np.full(len(places), np.nan))
        columns[name] = np.array([of_row(row) if np.isnan(value) else value for row, value in enumerate(given)], dtype=float)

    if "body_parameters" in table:
        notes |= dict.fromkeys(_contradicted_sizes(places, table))
        fill("body_parameters", lambda row: _size(chosen[row], table, notes))
    if "trainable_parameters" in table and "body_parameters" in columns:
        sizes = columns["body_parameters"]
        fill("trainable_parameters", lambda row: _trained(chosen[row], float(sizes[row]), table, notes))
    if "flops" in table and "tokens" in table:
        prices = np.array([_price(place, table) for place in chosen])
        if "flops" in columns:
            fill("tokens", lambda row: float(columns["flops"][row] / prices[row]))
        if "tokens" in columns:
            fill("flops", lambda row: float(prices[row] * columns["tokens"][row]))
    if "tokens" in columns and "unique_examples" in columns:
        unique = np.minimum(columns["tokens"], _tokens_of(columns["unique_examples"], table))
        fill("unique_tokens", lambda row: float(unique[row]))
    if "method" in table:
        columns["method"] = np.array([place.method for place in chosen], dtype=object)
    told = {name: values for name, values in columns.items() if name in places or not _empty(values)}
    return replace(places, columns=told), (*places.notes, *notes)


def _contradicted_sizes(places: Table, table: Table) -> Iterator[str]:
    """Places that give a model of the table another size than it has."""
    if not {"model", "body_parameters"} <= places.columns.keys() or "model" not in table:
        return
    for model, given in zip(map(str, places["model"]), places["body_parameters"], strict=True):
        sizes = table["body_parameters"][_of(table, model=model)]
        own = float(np.nanmedian(sizes)) if np.isfinite(sizes).any() else np.nan
        if abs(np.log(given / own)) > _SAME_SIZE:
            yield f"{model} has {own:.4g} weights in the table; the place says {given:.4g}, which is taken"


def _empty(values: Array) -> bool:
    return bool(values.dtype == float and np.isnan(values).all())


def _place(places: Table, row: int) -> _Place:
    def text(name: str) -> str:
        return str(places[name][row]) if name in places else ""

    def number(name: str) -> float:
        return float(places[name][row]) if name in places else np.nan

    rank = number("rank")
    return _Place(text("model"), text("method"), rank if rank > 0 else np.nan)


def _completed(place: _Place, table: Table, notes: dict[str, None]) -> _Place:
    """With the study's commonest method and rank where the place names none."""
    method, rank = place.method, place.rank
    if "method" in table:
        known = methods_of(table)
        if method and method not in known:
            raise TableError(unknown("method", method, known))
        if not method:
            method = known[0]
            if len(known) > 1:
                notes[f"no method was named: {method}, which has the most points"] = None
    if np.isnan(rank) and "rank" in table:
        ranks = table["rank"][_of(table, method=method) & np.isfinite(table["rank"]) & (table["rank"] > 0)]
        if ranks.size:
            values, counts = np.unique(ranks, return_counts=True)
            rank = float(values[np.argmax(counts)])
            notes[f"no rank was named: {rank:g}, of the measured ones ({', '.join(f'{r:g}' for r in np.unique(ranks))})"] = None
    return replace(place, method=method, rank=rank)


def _size(place: _Place, table: Table, notes: dict[str, None]) -> float:
    sizes = table["body_parameters"][_of(table, model=place.model)] if place.model and "model" in table else np.array([])
    if np.isfinite(sizes).any():
        return float(np.nanmedian(sizes))
    known = known_sizes([place.model]) if place.model else {}
    if not known:
        models = sorted({str(name) for name in table["model"]}) if "model" in table else []
        if not place.model:
            named = f"model= (valid: {', '.join(models)}) or " if models else ""
            raise TableError(f"places name no model and no size: add {named}n=1e8")
        raise TableError(unknown("model", place.model, models) + "; a model that the study has not needs its size: n=1e8")
    notes[f"{place.model} was not measured: its size is known, {known[place.model]:.4g}"] = None
    return known[place.model]


def _trained(place: _Place, size: float, table: Table, notes: dict[str, None]) -> float:
    """Trained weights; in a method without ranks those of its own rows."""
    of_method = _of(table, method=place.method)
    p_M, rank_M = table["trainable_parameters"], table["rank"] if "rank" in table else np.full(len(table), np.nan)
    has_rank = np.isfinite(place.rank) and place.rank > 0
    per_rank_M = p_M / np.where(rank_M > 0, rank_M, 1.0) if has_rank else p_M
    factor = place.rank if has_rank else 1.0
    own_M = of_method & (_of(table, model=place.model) if place.model else table["body_parameters"] == size)
    exact_M = own_M & (rank_M == place.rank) if has_rank else own_M
    if exact_M.any():
        return float(np.median(p_M[exact_M]))
    if own_M.any():
        notes[f"rank {place.rank:g} was not measured: its trained weights follow those of the measured ranks"] = None
        return factor * float(np.median(per_rank_M[own_M]))
    notes[f"trained weights of {place.model or f'n={size:.3g}'} follow a power of the size"] = None
    return factor * _power_of_size(table["body_parameters"][of_method], per_rank_M[of_method], size)


def _power_of_size(sizes: Array, values: Array, wanted: float) -> float:
    if np.unique(sizes).size < _FEWEST_SIZES:
        return float(np.median(values))
    slope, start = np.polyfit(np.log(sizes), np.log(values), 1)
    return float(np.exp(start + slope * np.log(wanted)))


def _price(place: _Place, table: Table) -> float:
    """FLOPs a token of this very model, method and rank; NaN where it was not measured."""
    same_M = _of(table, model=place.model, method=place.method) & (table["tokens"] > 0)
    if "rank" in table and np.isfinite(place.rank):
        same_M &= table["rank"] == place.rank
    return float(np.median(table["flops"][same_M] / table["tokens"][same_M])) if place.model and same_M.any() else np.nan


def _tokens_of(examples_M: Array, table: Table) -> Array:
    """Distinct tokens in so many examples, (M,); no end of them where a place does not say."""
    if "unique_examples" not in table or "unique_tokens" not in table:
        raise TableError("examples: the study does not say how many tokens its examples have; name unique_tokens instead")
    each = float(np.nanmedian(table["unique_tokens"] / np.maximum(table["unique_examples"], 1.0)))
    return np.where(np.isnan(examples_M), np.inf, examples_M * each)


def _of(table: Table, **wanted: str) -> NDArray[np.bool_]:
    """Rows with these texts, (M,); a text that is not named, or a column that the table lacks, excludes none."""
    chosen_M = np.ones(len(table), dtype=bool)
    for name, value in wanted.items():
        if value and name in table:
            chosen_M &= table[name].astype(str) == value
    return chosen_M


def _lacking(columns: Mapping[str, Array], name: str) -> bool:
    return name not in columns or not bool(np.isfinite(columns[name]).all())
