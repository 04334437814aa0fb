"""What a study's own law recommends, as a run that can be trained, with its price before it starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from isolora.config import RunConfig
from isolora.display import time_in_words
from isolora.errors import ConfigError
from isolora.fit import Fit, studied, targeted
from isolora.plan import Budget, Limits, Recommendation, fitted_plan, parse_budget
from isolora.plan.asked import plan_within
from isolora.plan.budget import DEFAULT_BUDGET
from isolora.runs.workspace import Workspace
from isolora.store import FILE, Store
from isolora.study.study_price import StagePrice, priced_run
from isolora.study.verify import Verification, base_of, examples_held, recommended_run, to_train, verify
from isolora.table import VERIFY, Table


@dataclass(frozen=True)
class Advice:
    """A recommendation and the run that tests it. budget_words: where a budget that nobody gave comes from."""

    folder: Path
    fit: Fit
    recommendation: Recommendation
    run: RunConfig
    price: StagePrice
    largest_flops: float
    price_per_hour: float | None = None
    budget_words: str = ""

    @property
    def seconds(self) -> float | None:
        """As timed on this machine, else at the speed measured in the study."""
        return self.recommendation.seconds if self.price.seconds is None else self.price.seconds

    def __str__(self) -> str:
        spent = [f"{self.price.tokens:,} tokens", f"{self.price.flops:.3g} FLOPs"]
        if self.seconds is not None:
            spent.append(f"about {time_in_words(self.seconds)} of training")
            spent += [] if self.price_per_hour is None else [f"{self.seconds / 3600 * self.price_per_hour:.2f} in money"]
        found = [self.budget_words, str(self.recommendation), f"this takes {', '.join(spent)}"]
        return "\n".join(line for line in found if line)

    def verified(self, quiet: bool = False) -> Verification:
        """Train it, or find it trained, and compare."""
        return verify(self.folder, self.recommendation, self.largest_flops, self.run.seed, quiet, self.fit.law)


def advise(
    source: Path | str,
    table: Table,
    budget: str | None = None,
    price_per_hour: float | None = None,
    limits: Limits | None = None,
    seed: int = 0,
    **fitting: Any,
) -> Advice:
    """Fit, plan and price; fitting: law, target, bootstrap. Raises ConfigError for a source that is no study, and as a plan does.

    Without a budget it is four times the largest fitted run's FLOPs.
    """
    store = study_of(source)
    workspace = Workspace()
    largest = largest_fitted_flops(table, fitting.get("target", "loss"))
    given = parse_budget(budget, price_per_hour) if budget else Budget(DEFAULT_BUDGET * largest, "flops", price_per_hour)
    said = "" if budget else f"no budget was given: {given}, {DEFAULT_BUDGET:g} x the largest fitted run"
    limits = limits or Limits()
    fit, recommendation = fitted_plan(table, given, limits, **fitting)
    first = recommended_run(base_of(store, recommendation), recommendation, seed, workspace.documents)
    held = examples_held(first, workspace.documents)
    if held is not None and (recommendation.examples or 0) > held:
        recommendation = _on_examples(held, fit, table, given, limits)
    run = to_train(store, base_of(store, recommendation), recommendation, seed, workspace)
    price = priced_run(VERIFY, run, workspace)
    return Advice(store.folder, fit, recommendation, run, price, largest, price_per_hour, said)


def _on_examples(held: int, fit: Fit, table: Table, budget: Budget, limits: Limits) -> Recommendation:
    """What is recommended on no more examples than the study's data hold."""
    found = plan_within(fit, table, budget, replace(limits, examples=held))
    said = f"the study's data hold {held:,} training examples: tokens beyond them are planned as further passes"
    return replace(found, warnings=(*found.warnings, said))


def study_of(source: Path | str) -> Store:
    """The store of a study's folder, or of the file in it. Raises ConfigError for a plain table."""
    path = Path(source)
    folder = path.parent if path.name == FILE else path
    if not (folder / FILE).is_file():
        raise ConfigError(
            f"SOURCE: {source} is a table without a study, so there is no configuration to train from; verify needs the folder"
            " of `isolora study`"
        )
    return Store(folder)


def largest_fitted_flops(table: Table, target: str) -> float:
    """Training FLOPs of the largest run that a law of this target sees."""
    return float(np.nanmax(targeted(studied(table), target).table["flops"]))
