"""A fit in words: the law, its parameters, what was left out, how well larger budgets were predicted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from isolora.fit.result import Fit


def summary(fit: Fit) -> str:
    """Lines for a person."""
    return "\n".join([f"{fit.law}: {fit.target} = {fit.shape.formula}", *(f"  {line}" for line in _lines(fit))])


def _lines(fit: Fit) -> Iterator[str]:
    yield f"{fit.points} points of {fit.runs} runs from {fit.cut:,.0f} {fit.unit_of_cut} on"
    for name, value in fit.parameters.items():
        low, high = fit.intervals[name]
        yield f"{name} = {value:.4g}  [{low:.4g}, {high:.4g}]"
    yield f"noise {fit.noise:.2%} of the {fit.target}; objective {fit.objective:.4g}"
    yield from (f"left out: {count} points ({reason})" for reason, count in fit.left_out.items())
    if len(fit.members) > 1:
        yield f"predictions average {_shares(fit)}"
    if fit.holdout:
        yield (
            f"predicted {fit.holdout['count']} held-out points of up to {fit.holdout['factor']:.1f} x the fitted FLOPs:"
            f" error {fit.holdout['mean']:.2%} on average, {fit.holdout['max']:.2%} at worst"
        )
    else:
        yield "nothing was held out: how well larger budgets are predicted is not known"
    yield from (f"mind: {remark}" for remark in fit.remarks)


def _shares(fit: Fit) -> str:
    totals: dict[str, float] = {}
    for member in fit.members:
        totals[member.law] = totals.get(member.law, 0.0) + member.weight
    ordered = sorted(totals.items(), key=lambda item: -item[1])
    return ", ".join(f"{law} ({share:.0%})" for law, share in ordered if share >= 0.005)
