"""What sets measured points apart although no law reads it: ranks whose trained weights no column tells, sizes that too few
points carry, other texts or tasks. One curve then stands for all of them, and what it is off by looks like noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from isolora import laws
from isolora.fit.fit_points import from_table
from isolora.fit.places import columns_of
from isolora.fit.result import Fit
from isolora.fit.rolling import carries
from isolora.fit.selection import far_off
from isolora.laws import Array
from isolora.table import Table

_MOST = 8
"""Values of a column of text up to which it may set points apart; a column of more is a name of each run."""
_CHANCE = 1e-3
_SLIGHT = 0.02
"""Distance from the law below which nothing is called far off."""


def unseen(fit: Fit, table: Table, own: Sequence[str] = ()) -> dict[str, str]:
    """Column -> how far its points lie off the law, in words, for each that chance does not explain, or that no
    law was tried for. own: columns of text to look at besides base and rank. table: as it was fitted."""
    if fit.bounded or not (names := [*_blind(fit, table), *own]):
        return {}
    kept, gap_M = _off_the_law(fit, table)
    found = {name: words for name in names if (words := _apart(kept, name, gap_M))}
    return _untried(fit, kept) | found


def was_asked_for(fit: Fit, table: Table) -> bool:
    """Whether the law was named by a person: it alone was tried, although the points carry others."""
    tried = {str(row["law"]) for row in fit.candidates}
    if len(tried) > 1:
        return False
    columns = from_table(table).columns
    others = (laws.resolve(name) for name in laws.law_names() if name not in tried)
    return any(carries(law, columns) for law in others if not law.grows and not law.last_resort)


def spikes(fit: Fit, table: Table) -> str:
    """Which points lie so far off the law that the noise does not count them in full, in words; nothing where none does."""
    kept, gap_M = _off_the_law(fit, table)
    far_M = np.abs(gap_M) > max(far_off(np.abs(gap_M), len(fit.parameters)), _SLIGHT)
    if not far_M.any():
        return ""
    worst = int(np.argmax(np.abs(gap_M)))
    where = f"run {kept['run'][worst]}" + (f" at {kept['tokens'][worst]:,.0f} tokens" if "tokens" in kept else "")
    counted = f"{int(far_M.sum())} of {len(kept)} points {'lies' if far_M.sum() == 1 else 'lie'}"
    return f"{counted} far off the law ({where} by {np.expm1(gap_M[worst]):+.0%}): did something go wrong there?"


def _off_the_law(fit: Fit, table: Table) -> tuple[Table, Array]:
    """The points from the law's first tokens on, and their log losses less the predicted ones (M,)."""
    kept = table.where(table["tokens"] >= fit.cut) if "tokens" in table else table
    return kept, np.log(kept["loss"]) - np.log(fit.predict(columns_of(fit, kept)))


def _base_column(table: Table) -> str:
    return "model" if "model" in table else "body_parameters"


def _blind(fit: Fit, table: Table) -> Iterator[str]:
    """Columns by which a plan tells options apart, and the laws do not."""
    read = {name for member in fit.averaged for name in laws.resolve(member.law).demands}
    if "n" not in read and not fit.families:
        yield _base_column(table)
    if "rank" in table and "trainable_parameters" not in table:
        yield "rank"


def _untried(fit: Fit, table: Table) -> dict[str, str]:
    """Several sizes, and no law that reads them among those that were tried: a table of five points carries none."""
    tried = [laws.resolve(str(row["law"])) for row in fit.candidates]
    if any("n" in law.demands for law in tried) or "body_parameters" not in table:
        return {}
    sizes = np.unique(table["body_parameters"]).size
    return {_base_column(table): f"{sizes} sizes, which none of the laws tried tells apart"} if sizes > 1 else {}


def _apart(table: Table, name: str, gap_M: Array) -> str:
    """Means of runs are compared, or points where there is a run for each value alone."""
    from scipy import stats

    if name not in table:
        return ""
    run_M = table["run"].astype(str)
    value_M = np.array([value if isinstance(value, str) else f"{value:g}" for value in table[name]])
    values = np.unique(value_M)
    if not 1 < len(values) <= _MOST:
        return ""
    groups = [gap_M[value_M == value] for value in values]
    means = [[gap_M[run_M == run].mean() for run in np.unique(run_M[value_M == value])] for value in values]
    compared = means if min(map(len, means)) > 1 else groups
    if min(map(len, compared)) < 2 or not stats.f_oneway(*compared).pvalue < _CHANCE:
        return ""
    order = np.argsort([group.mean() for group in groups])
    lowest, highest = int(order[0]), int(order[-1])
    low, high = groups[lowest].mean(), groups[highest].mean()
    return f"points of {name} {values[lowest]} lie {-low:.1%} below it, of {values[highest]} {high:.1%} above"
