"""What the study itself has cost, taken off a budget that is to pay for it too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from isolora.errors import ConfigError
from isolora.plan.budget import Budget
from isolora.table import VERIFY, Table


def charged(budget: Budget, table: Table) -> tuple[Budget, str]:
    """(what is left of a budget after the runs of a table, trials of learning rates too, the proof not; that in words).

    Raises ConfigError where the table does not tell what each of its runs cost, and where nothing is left.
    """
    runs = table.where(table["stage"] != VERIFY) if "stage" in table else table
    if not runs.names_runs:
        raise ConfigError("--charge-study: the table names no runs, so that what they cost cannot be told; add a column run")
    if budget.unit not in runs or not np.isfinite(runs[budget.unit]).all():
        raise ConfigError(f"--charge-study: the table does not tell the {budget.unit} of every run; add a column {budget.unit}")
    names, run_M = np.unique(runs["run"].astype(str), return_inverse=True)
    cost_R = np.zeros(len(names))
    np.maximum.at(cost_R, run_M, runs[budget.unit])
    spent = replace(budget, amount=float(cost_R.sum()))
    beside = " (their held-out losses are not counted)" if "stage" in table else ""
    if spent.amount >= budget.amount:
        raise ConfigError(f"--charge-study: the study's {len(names):,} runs took {spent}, all of the budget of {budget}")
    left = replace(budget, amount=budget.amount - spent.amount, charged=spent.amount)
    told = f"the study's {len(names):,} runs took {spent}{beside} of the budget of {budget}"
    return left, f"{told}; {left} of it is left, and planned for"
