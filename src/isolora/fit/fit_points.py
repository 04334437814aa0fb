"""What a fit sees of a table: positive columns under their short names, the trajectory of each point, its price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isolora.errors import TableError
from isolora.laws import GROUP_PREFIXES, Array, family_columns, method_columns
from isolora.table import NOT_STUDIED, SHORT_NAMES, Column, Table, canonical_name


def by_group(number_M: NDArray[np.int64], within_M: Array) -> list[NDArray[np.int64]]:
    """The places of each group's members, in the order of `within_M`; one sort for all, since a table may hold thousands.
    number_M: which group each is of."""
    order = np.lexsort((within_M, number_M))
    return np.split(order, np.flatnonzero(np.diff(number_M[order])) + 1)


@dataclass(frozen=True)
class Points:
    """M measured points: short columns, loss in nats per token, run number and name, training FLOPs so far.

    `progress` is what the table counts progress by: "tokens", or "flops" where it has no tokens. `start` are points before any
    training, one a base and method, at next to no tokens; they are no points of a trajectory, and only some laws use them.
    `seeds` are the runs', in the order of `names`; empty where the table does not tell.
    """

    columns: Mapping[str, Array]
    loss: Array
    run: NDArray[np.int64]
    names: tuple[str, ...]
    flops: Array
    progress: str = "tokens"
    start: Points | None = None
    seeds: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.loss)

    def where(self, chosen_M: NDArray[np.bool_] | NDArray[np.int64]) -> Points:
        """Those points, their runs numbered anew without gaps."""
        kept_R, run_M = np.unique(self.run[chosen_M], return_inverse=True)
        return Points(
            {name: column[chosen_M] for name, column in self.columns.items()},
            self.loss[chosen_M],
            run_M.astype(np.int64),
            tuple(self.names[run] for run in kept_R),
            self.flops[chosen_M],
            self.progress,
            self.start,
            tuple(self.seeds[run] for run in kept_R) if self.seeds else (),
        )

    def with_start(self) -> Points:
        """These points and, behind them, those of the start, each a run of its own."""
        if self.start is None:
            return self
        columns = {name: np.concatenate([values, self.start.columns[name]]) for name, values in self.columns.items()}
        return Points(
            columns,
            np.concatenate([self.loss, self.start.loss]),
            np.concatenate([self.run, self.start.run + len(self.names)]),
            (*self.names, *self.start.names),
            np.concatenate([self.flops, self.start.flops]),
            self.progress,
        )


def from_table(table: Table) -> Points:
    """The points after the start of their run (tokens > 0). Raises TableError when there are no tokens to go by.

    A table of FLOPs and losses alone is read too; its tokens are then its FLOPs, which only the law of compute can use.
    """
    if "tokens" not in table and "flops" not in table:
        why = f"(columns: {', '.join(table.columns)}){table.why_absent('tokens')}"
        raise TableError(f"the table has no tokens column; map one with --map d=COLUMN{counted_by_examples(table)} {why}")
    progress = "tokens" if "tokens" in table else "flops"
    whole, table = table, table.where(table[progress] > 0)
    if not len(table):
        raise TableError(f"the table has no point with {progress} above 0")
    columns = {short: table[name] for short, name in SHORT_NAMES.items() if name in table and _positive(table[name])}
    columns.setdefault("d", table[progress])
    columns["u"] = np.minimum(columns.get("u", columns["d"]), columns["d"])  # of a corpus larger than the run, what the run saw
    columns["c"] = _flops(table, columns)
    columns |= _group_columns(table, methods_of(table), families_of(table))
    start = _start(whole.where(whole[progress] == 0), columns, methods_of(table), families_of(table))
    names, first_R, run_M = np.unique(table["run"].astype(str), return_index=True, return_inverse=True)
    seeds = _seeds(table["seed"][first_R]) if "seed" in table else ()
    return Points(columns, table["loss"], run_M.astype(np.int64), tuple(map(str, names)), columns["c"], progress, start, seeds)


def _seeds(named_R: Column) -> tuple[float, ...]:
    """Of runs; of seeds that are called by words, numbers in their place."""
    if named_R.dtype == float:
        return tuple(named_R.tolist())
    words, number_R = np.unique(named_R.astype(str), return_inverse=True)
    return tuple(number if words[number] else np.nan for number in number_R.tolist())


def _group_columns(table: Table, methods: list[str], families: list[str]) -> dict[str, Array]:
    """Which method and which family each point is of."""
    found = method_columns(list(table["method"]), methods) if "method" in table else {}
    return found | (family_columns(list(table["family"]), families) if "family" in table else {})


def _start(bare: Table, columns: Mapping[str, Array], methods: list[str], families: list[str]) -> Points | None:
    """The points before any training, one for each base and method: their mean loss, at a millionth of the fewest tokens."""
    if not len(bare):
        return None
    keys = [bare[name].astype(str) for name in ("body_parameters", "family", "method") if name in bare]
    groups = np.array(["/".join(row) for row in zip(*keys, strict=True)]) if keys else np.zeros(len(bare), dtype=str)
    first = np.unique(groups, return_index=True)[1]
    loss = np.array([bare["loss"][groups == groups[row]].mean() for row in first])
    at = {name: np.full(len(first), values.min() * _NEXT_TO_NONE) for name, values in columns.items() if name in ("d", "u", "c")}
    for short in columns.keys() - at.keys():
        if short.startswith(GROUP_PREFIXES):
            continue
        own = bare[SHORT_NAMES[short]][first] if SHORT_NAMES[short] in bare else np.array([np.nan])
        if not _positive(own):
            return None
        at[short] = own
    at |= _group_columns(bare.where(first), methods, families)
    runs = tuple(f"start of {groups[row]}" for row in first)
    return Points(at, loss, np.arange(len(first), dtype=np.int64), runs, at["c"])


def counted_by_examples(table: Table) -> str:
    """How a table without tokens is read all the same, in words, where it counts examples; empty where it does not."""
    if "unique_examples" not in table:
        return ""
    column = next((name for name in table.used if canonical_name(name) == "unique_examples"), "unique_examples")
    return f", or count by examples with --map d={column}"


def methods_of(table: Table) -> list[str]:
    """The methods of a table, the one with the most points first; none where the table does not say."""
    return _commonest_first(table, "method")


def families_of(table: Table) -> list[str]:
    """The families of a table's bases, the one with the most points first; none where it does not tell of several."""
    names = _commonest_first(table, "family")
    return names if len(names) > 1 else []


def _commonest_first(table: Table, column: str) -> list[str]:
    if column not in table:
        return []
    names, counts = np.unique(table[column].astype(str), return_counts=True)
    return [str(name) for name in names[np.argsort(-counts, kind="stable")]]


REPEATED = 1.5
"""Passes from which a point tells of tokens that were seen again."""
_NEXT_TO_NONE = 1e-6


def studied(table: Table) -> Table:
    """The points without the trials of learning rates, which are short, and without the proof of a recommendation: a law that
    had seen it would prove nothing."""
    return table.where(~np.isin(table["stage"], NOT_STUDIED)) if "stage" in table else table


def trials_of_rates(table: Table) -> Table | None:
    """The trials by which a study chose the rate of each cell; None where there are none."""
    trial_M = table["stage"] == "tune" if "stage" in table else np.zeros(len(table), dtype=bool)
    return table.where(trial_M) if trial_M.any() else None


def _flops(table: Table, columns: Mapping[str, Array]) -> Array:
    """Measured FLOPs, or about 4 n + 6 p a token for a table that has none; tokens alone where even n is unknown."""
    if "flops" in table and _positive(table["flops"]):
        flops_M: Array = table["flops"]
        return flops_M
    nothing_M = np.zeros(len(table))
    flops_per_token_M = 4 * columns.get("n", nothing_M) + 6 * columns.get("p", nothing_M)
    return columns["d"] * np.where(flops_per_token_M > 0, flops_per_token_M, 1.0)


def _positive(values_M: Array) -> bool:
    return bool((np.isfinite(values_M) & (values_M > 0)).all())
