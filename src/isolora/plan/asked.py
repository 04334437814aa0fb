"""A plan as it is asked for: a table, a budget or a goal, and limits in a person's words; fits the law and plans with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from isolora.errors import ConfigError
from isolora.fit import Fit, ManyMethods, targeted
from isolora.fit import fit as fit_law
from isolora.fit.remarks import assumed
from isolora.plan.budget import Budget, parse_budget, parse_memory, parse_tokens
from isolora.plan.charge import charged
from isolora.plan.limits import Limits
from isolora.plan.reach import Reached, parse_reach, reach
from isolora.plan.recommendation import Recommendation, plan
from isolora.plan.refusal import NoRecommendation, best_measured, within
from isolora.table import Table


def asked_plan(
    table: Table,
    budget: str | None,
    goal: str | None,
    price_per_hour: float | None,
    limits: Limits,
    law: str = "auto",
    target: str = "loss",
    bootstrap: int = 1000,
    charge_study: bool = False,
) -> Recommendation | Reached:
    """Exactly one of `budget` (`2h`) and `goal` (`f1=0.9`).
    charge_study: the budget pays for the table's runs too.

    Raises UserError for what is not understood, NoRecommendation where the evidence carries no answer.
    """
    if goal is not None:
        if charge_study:
            raise ConfigError("--charge-study takes what the runs cost off a --budget; a goal has none")
        measure, value = parse_reach(goal)
        wanted = measure if target == "loss" else target
        fitted = fit_law(table, law, bootstrap, target=wanted)
        if wanted == "loss" != fitted.target:
            raise ConfigError(f"--reach loss: {fitted.remarks[0]}; ask for {fitted.target}=VALUE")
        with _saying(fitted):
            reached = reach(fitted, table, value, limits, price_per_hour=price_per_hour)
        return replace(reached, warnings=_with_assumed(reached.warnings, fitted))
    given = parse_budget(budget or "", price_per_hour)
    left, told = charged(given, table) if charge_study else (given, "")
    found = fitted_plan(table, left, limits, law, target, bootstrap)[1]
    return replace(found, warnings=(told, *found.warnings)) if told else found


def fitted_plan(
    table: Table, budget: Budget, limits: Limits, law: str = "auto", target: str = "loss", bootstrap: int = 1000
) -> tuple[Fit, Recommendation]:
    """A fit and what it recommends; raises as `asked_plan`."""
    fitted = _fitted(table, budget, limits, law, target, bootstrap)
    with _saying(fitted):
        found = plan_within(fitted, table, budget, limits)
    return fitted, replace(found, warnings=_with_assumed(found.warnings, fitted))


@contextmanager
def _saying(fitted: Fit) -> Iterator[None]:
    """A refusal tells, too, what its law assumed and left out."""
    try:
        yield
    except NoRecommendation as refusal:
        refusal.warnings = assumed(fitted)
        raise


def _with_assumed(warnings: Sequence[str], fitted: Fit) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*warnings, *assumed(fitted))))


def plan_within(fitted: Fit, table: Table, budget: Budget, limits: Limits) -> Recommendation:
    """As `plan`, its limits together."""
    limited = (limits.examples, limits.memory_bytes, None, limits.forget_at_most, limits.serve_tokens)
    return plan(fitted, table, budget, *limited)


def asked_limits(
    examples: int | None = None,
    memory: str | None = None,
    forget_at_most: float | None = None,
    serve: str | None = None,
    memory_bytes: float | None = None,
) -> Limits:
    """Limits as given in words: memory as `16GB` (else `memory_bytes`), serve as `1e9tokens`. Raises UserError."""
    room = parse_memory(memory) if memory else memory_bytes
    return Limits(examples, room, forget_at_most, parse_tokens(serve) if serve else 0.0)


def _fitted(table: Table, budget: Budget, limits: Limits, law: str, target: str, bootstrap: int) -> Fit:
    try:
        return fit_law(table, law, bootstrap, target=target)
    except ManyMethods as error:
        measure = targeted(table, target)
        best = best_measured(within(measure.table, limits), budget, limits.memory_bytes, limits.serve_tokens)
        raise NoRecommendation(str(error), best, target=measure.name) from error
