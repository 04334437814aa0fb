"""The columns that a law reads, completed from those that a place gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from isolora import laws
from isolora.errors import TableError, in_brief, unknown
from isolora.fit.distance import COMPUTE
from isolora.json_types import JsonMapping
from isolora.laws import Array
from isolora.table import SHORT_NAMES

NOT_NUMBERS = ("learning_rate", "method", "model", "family")
"""What a place may say besides the laws' columns."""


def completed(
    columns: JsonMapping, law_names: Sequence[str], price: float = 0.0, family_of: Mapping[str, str] | None = None
) -> dict[str, Array]:
    """All columns that the laws read, of one shape (M,): u is d, and c is `price` FLOPs a token and weight, where a place gives
    none. Tokens seen again are not unique: a u beyond d is d.

    law_names: the law first, then those that it is averaged with; family_of: each base's family, where laws tell them apart.
    Raises TableError for a column that is missing, at any of the places, or of which there is no logarithm.
    """
    law = law_names[0]
    numbers = {name: values for name, values in columns.items() if name not in NOT_NUMBERS}
    complete = {name: positive_numbers(name, values) for name, values in numbers.items()}
    if "learning_rate" in columns:
        positive_numbers("learning_rate", columns["learning_rate"])
    complete |= _method_columns(columns, law) | _family_columns(columns, law, family_of or {})
    shape = _shape(complete)
    if "d" in complete:
        complete["u"] = np.fmin(complete.get("u", complete["d"]), complete["d"])
    if "d" in complete and price:
        usual = price * complete.get("n", np.ones(1)) * complete["d"]
        complete[COMPUTE] = where_absent(complete.get(COMPUTE, usual), usual)
    _demand(complete, law, dict.fromkeys(law_names))
    return {name: np.broadcast_to(values, shape) for name, values in complete.items()}


def _shape(complete: Mapping[str, Array]) -> tuple[int, ...]:
    """(M,) of all columns together; those of one place are of every place. Raises TableError."""
    try:
        return np.broadcast_shapes(*(values.shape for values in complete.values()))
    except ValueError as error:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in complete.items())
        raise TableError(f"columns of places differ in length: {lengths}") from error


def positive_numbers(name: str, values: object) -> Array:
    """A column of places as positive numbers (M,); NaN where a place does not say. Raises TableError."""
    try:
        numbers = np.atleast_1d(np.asarray(values, dtype=float))
    except (TypeError, ValueError) as error:
        raise TableError(f"places need numbers in {name}; got {in_brief(repr(values))}") from error
    if (numbers <= 0).any() and name in (*SHORT_NAMES, "learning_rate"):
        raise TableError(f"places need {name} above 0; the smallest is {np.nanmin(numbers):g}")
    return numbers


def where_absent(values_M: Array, otherwise_M: Array) -> Array:
    """The values, and others where they are NaN."""
    filled: Array = np.where(np.isnan(values_M), otherwise_M, values_M)
    return filled


def _demand(complete: Mapping[str, Array], law: str, law_names: Iterable[str]) -> None:
    wanted = {name for each in law_names for name in laws.resolve(each).demands}
    if missing := wanted - complete.keys():
        shown = ", ".join(f"{name} ({SHORT_NAMES.get(name, name)})" for name in sorted(missing))
        raise TableError(f"law {law!r} reads {shown}, which the places lack")
    for name in sorted(wanted):
        if absent := int(np.isnan(complete[name]).sum()):
            shown = f"{absent} of {len(complete[name])} places lack"
            raise TableError(f"law {law!r} reads {name} ({SHORT_NAMES.get(name, name)}), which {shown}")


def _method_columns(columns: JsonMapping, law: str) -> dict[str, Array]:
    """Which method each place is of, for a law of several. Raises TableError when a place names none of them."""
    known = laws.methods_in_name(law)
    if not known or any(name.startswith(laws.METHOD_PREFIX) for name in columns):
        return {}
    if "method" not in columns:
        raise TableError(f"law {law!r} is of several methods; name one (valid: {', '.join(known)})")
    return laws.method_columns(_named(columns, "method", known), known)


def _family_columns(columns: JsonMapping, law: str, family_of: Mapping[str, str]) -> dict[str, Array]:
    """Which family each place's base is of, for a law of several. Raises TableError when a place does not tell."""
    known = laws.families_in_name(law)
    if not known or any(name.startswith(laws.FAMILY_PREFIX) for name in columns):
        return {}
    if "family" in columns:
        return laws.family_columns(_named(columns, "family", known), known)
    if "model" not in columns:
        raise TableError(f"law {law!r} is of several families of bases; name a model or a family (valid: {', '.join(known)})")
    models = _texts(columns, "model")
    for name in models:
        if name not in family_of:
            raise TableError(f"model {name!r} is of no family that was measured; name one (valid: {', '.join(known)})")
    return laws.family_columns([family_of[name] for name in models], known)


def _named(columns: JsonMapping, column: str, known: Sequence[str]) -> list[str]:
    """What a column names, each of them known. Raises TableError for another name."""
    asked = _texts(columns, column)
    for name in asked:
        if name not in known:
            raise TableError(unknown(column, name, known))
    return asked


def _texts(columns: JsonMapping, column: str) -> list[str]:
    return [str(name) for name in np.atleast_1d(np.asarray(columns[column], dtype=object))]
