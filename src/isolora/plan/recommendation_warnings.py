"""The sentences that go with a recommendation: what it rests on too thinly to be taken for granted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from isolora.fit import Fit, Score, about_bounds
from isolora.json_types import JsonMapping, JsonObject
from isolora.plan.choice import tie
from isolora.plan.limits import FARTHEST, Limits, farthest_tokens
from isolora.plan.options import Option

_BEYOND = 1.05
_WIDE_INTERVAL = 0.05
_NARROW_MARGIN = 1.1
_FEW_RUNS = 6


def warnings_about(
    fit: Fit,
    options: Sequence[Option],
    option: Option,
    row: JsonObject,
    left: Mapping[str, int],
    of: int,
    half: JsonMapping | None = None,
) -> Iterator[str]:
    """What to mind about choosing `option`, whose planned `row` is one of the plan's alternatives; `left` counts the options
    that were left out, by reason, `of` so many, `half` is what half the budget would choose."""
    yield from _about_budget(options, option, row)
    yield from _about_law(fit, row)
    yield from _about_passes(fit, row)
    if row.get("stopped_early"):
        yield f"the budget is not spent: {_limit_words(option, row)}"
    if half is not None and half["predicted_loss"] < row["predicted_loss"] * (1 - tie(fit)):
        yield (
            f"half the budget is expected to do better, with {half['model']}, but less surely: options are chosen with bad luck"
            " in mind"
        )
    yield from left_out_words(left or {}, of)


def about_spending(option: Option, limits: Limits, price_per_hour: float | None) -> Iterator[str]:
    """What serving takes beside the training, and why no money is told although an hour has a price."""
    if limits.serve_tokens:
        flops = option.serving(limits.serve_tokens, "flops")
        yield f"serving {limits.serve_tokens:.3g} tokens takes {flops:.3g} FLOPs beside the training"
    if price_per_hour is not None and math.isnan(option.seconds_per_token):
        yield "no money is told: the table has no seconds for it; --on and --utilisation take them from an accelerator"


def left_out_words(left: Mapping[str, int], of: int) -> Iterator[str]:
    """A sentence for each reason for which some of so many options were left out."""
    yield from (f"{count} of {of} options were left out, {reason}" for reason, count in left.items())


def _about_passes(fit: Fit, row: JsonObject) -> Iterator[str]:
    if row["epochs"] <= 1.0:
        return
    if "u" not in fit.shape.demands:
        yield (
            f"the data is passed over {row['epochs']:.1f} times, which law {fit.law!r} takes for new data:"
            " more than about 4 passes are not planned without a law of repeats"
        )


def _limit_words(option: Option, row: JsonObject) -> str:
    """What ends the training before the budget does."""
    if row["tokens"] >= farthest_tokens(option):
        return f"{FARTHEST:.0f} x the tokens that {option.name} was followed for are the most that is planned"
    if row["epochs"] > 1.0:
        return f"{row['epochs']:.1f} passes over the data are the most that the evidence supports"
    return f"beyond {row['tokens']:,.0f} tokens {option.name} would forget too much"


def _about_budget(options: Sequence[Option], option: Option, row: JsonObject) -> Iterator[str]:
    largest_flops = float(np.nanmax([each.largest_flops for each in options] + [0.0]))
    if largest_flops and row["flops"] > _BEYOND * largest_flops:
        factor = row["flops"] / largest_flops
        yield f"the budget is {factor:.1f} x the largest measured ({largest_flops:.3g} FLOPs): an extrapolation"
    if row["tokens"] > _BEYOND * option.largest_tokens:
        factor = row["tokens"] / option.largest_tokens
        yield f"{option.name} was followed for {option.largest_tokens:,.0f} tokens; the plan is {factor:.1f} x that"
    if row["tokens"] < option.smallest_tokens / _BEYOND:
        yield (
            f"{option.name} was measured from {option.smallest_tokens:,.0f} tokens on; the plan has {row['tokens']:,.0f}:"
            " an extrapolation downwards"
        )


def _about_law(fit: Fit, row: JsonObject) -> Iterator[str]:
    low, high = row["interval"]
    width = (high - low) / row["predicted_loss"]
    if width > _WIDE_INTERVAL:
        score = Score.of(fit.target, row["predicted_loss"], (low, high))
        ends = (
            f"{score.name} {score.interval[0]:.3g} to {score.interval[1]:.3g}" if score else f"{width:.1%} of the predicted loss"
        )
        yield f"the interval is wide: {ends}"
    yield from about_bounds(fit)
    if not fit.holdout:
        yield "nothing was held out, so how well the law predicts larger budgets was not tested"
    if fit.runs < _FEW_RUNS:
        yield f"the law rests on {fit.runs} runs only; its intervals are rough"
    yield from _about_rivals(fit)


def _about_rivals(fit: Fit) -> Iterator[str]:
    own = [float(each["error"]) for each in fit.candidates if each["law"] == fit.law and "error" in each]
    others = [each for each in fit.candidates if each["law"] != fit.law and "error" in each]
    if not (own and others):
        return
    rival = min(others, key=lambda each: float(each["error"]))
    error = float(rival["error"])
    if error < _NARROW_MARGIN * min(own):
        why = "" if error >= min(own) else "weighs most over all hold-outs and starts, and "
        yield (
            f"law {fit.law!r} was chosen narrowly: it {why}predicted the held-out budgets to {min(own):.2%},"
            f" {rival['law']!r} to {error:.2%}"
        )


def about_size(options: Sequence[Option], option: Option, fitting: Sequence[Option]) -> Iterator[str]:
    """That no larger, or no smaller, base was measured; options: all of them, also those that do not fit the memory."""
    sizes = {each.body_parameters for each in options}
    if len(sizes) > 1 and option.body_parameters == max(sizes):
        yield f"{option.model} is the largest base measured: a larger one may be better still"
    larger = any(each.body_parameters > option.body_parameters for each in fitting)
    if len(sizes) > 1 and option.body_parameters == min(sizes) and larger:  # and not because no larger one could be chosen
        yield f"{option.model} is the smallest base measured: a smaller one may be better still"
