"""The page's sentences: what to train, whether it held, and what each figure shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isolora.report import formats as words
from isolora.report.forgetting import endings
from isolora.report.study import StudyReport, Verified
from isolora.report.trajectories import named
from isolora.report.work import largest, total

Texts = dict[str, Any]


def scope(study: StudyReport) -> str:
    """What was measured, for a page without a recommendation."""
    fit = study.fit
    return (
        f"{len(study.curves)} runs over {len(study.models)} base models and {len(study.ranks)} ranks; "
        f"the law stands on {fit.points} points from {words.count(fit.cut)} tokens on."
    )


def advice(study: StudyReport) -> Texts | None:
    """The recommendation in words."""
    plan = study.recommendation
    if plan is None:
        return None
    low, high = plan.interval
    return {
        "model": plan.model,
        "adapter": _adapter(plan.method["name"], plan.method.get("rank")),
        "tokens": words.count(plan.tokens),
        "diet": _diet(study),
        "expectation": f"The law expects a held-out loss of {plan.predicted_loss:.3f} nats per token; "
        f"with 95 % confidence a new run ends between {low:.3f} and {high:.3f}.",
        "facts": _facts(study),
        "warnings": list(plan.warnings),
    }


def _diet(study: StudyReport) -> str:
    plan = study.recommendation
    assert plan is not None
    rate = "" if plan.learning_rate != plan.learning_rate else f" Take a learning rate of {plan.learning_rate:g}."
    if plan.examples is None:
        return rate.strip()
    return f"That is {words.count(plan.examples)} examples, {words.passes(plan.epochs)} over them.{rate}"


def _facts(study: StudyReport) -> list[Texts]:
    plan = study.recommendation
    assert plan is not None
    low, high = plan.interval
    facts = [
        {"name": "Predicted loss", "value": f"{plan.predicted_loss:.3f}", "note": f"95 % interval {low:.3f} to {high:.3f}"},
        {"name": "Compute", "value": f"{words.flops(plan.flops)} FLOPs", "note": _reach(study)},
    ]
    if plan.seconds is not None:
        facts.append({"name": "Time", "value": words.duration(plan.seconds), "note": "at the speed measured in this study"})
    return [*facts, _nearest(plan.nearest_evidence)]


def _nearest(point: Mapping[str, Any]) -> Texts:
    """The measured point that lies closest to the recommendation."""
    rank = point.get("rank")
    name = named(point["model"], "", None if rank is None or rank != rank else int(rank)) if "model" in point else point["run"]
    return {"name": "Nearest evidence", "value": name, "note": f"{words.count(point['tokens'])} tokens, loss {point['loss']:.3f}"}


def _adapter(method: str, rank: int | None) -> str:
    name = "LoRA" if method == "lora" else method
    return f"{name} of rank {rank}" if rank else name


def _reach(study: StudyReport) -> str:
    assert study.recommendation is not None
    factor = study.recommendation.flops / study.largest_flops
    return f"{factor:.1f} × the largest run of the study"


def proof(study: StudyReport) -> Texts | None:
    """Predicted beside measured, and where both lie on the gauge (per cent of its width)."""
    found = study.verification
    if found is None:
        return None
    low, high = min(found.interval[0], found.measured), max(found.interval[1], found.measured)

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    return {
        "held": held(found),
        "verdict": "The prediction held." if held(found) else "The prediction missed.",
        "words": _verdict(found),
        "predicted": f"{found.predicted:.3f}",
        "measured": f"{found.measured:.3f}",
        "predicted_percent": place(found.predicted),
        "measured_percent": place(found.measured),
        "low_percent": place(found.interval[0]),
        "width_percent": round(place(found.interval[1]) - place(found.interval[0]), 2),
    }


def held(found: Verified) -> bool:
    return found.interval[0] <= found.measured <= found.interval[1]


def _verdict(found: Verified) -> str:
    where = "inside" if held(found) else "outside"
    return (
        f"The recommended adapter was then trained: predicted {found.predicted:.3f}, measured {found.measured:.3f}, "
        f"{words.percent(found.relative_error)} off and {where} the 95 % interval, "
        f"at {found.flops_over_largest_fitted:.1f} × the largest compute that the law had seen."
    )


def loss_curves(study: StudyReport) -> str:
    ahead = (
        " The star is the prediction, far to the right of every run; the ring is what was measured there."
        if study.verification
        else ""
    )
    return (
        "Points are measured on held-out text, lines are the fitted law, one for each base model and rank. "
        f"Hollow points lie before the law's range; thin lines are trials at other learning rates.{ahead}"
    )


def isoflop(study: StudyReport) -> str:
    ahead = " The dashed line is the recommended budget." if study.recommended else ""
    return (
        "Each line spends the same compute on smaller or larger base models, and the larger see fewer tokens for it: "
        f"take the size where the line is lowest. Points are measured, lines are the law.{ahead}"
    )


def frontier(study: StudyReport) -> str:
    return (
        "The best loss that each budget can buy, in the colour of the base model that buys it, with the measured runs behind. "
        "The band is the 95 % interval; everything right of the dotted line is extrapolation."
    )


def agreement(study: StudyReport) -> str:
    strip = "Points on the line are predicted exactly; the grey strip is 2 % to either side."
    holdout = study.fit.holdout
    if not holdout:
        return strip
    return (
        f"{strip} Squares were held out: the law foretold {holdout['count']} of them from smaller budgets, "
        f"with a median error of {words.percent(holdout['median'])} and {words.percent(holdout['max'])} at worst."
    )


def work(study: StudyReport) -> str:
    shares = [sum(spent["adapter"].values()) / total(spent) for spent in largest(study).values() if "adapter" in spent]
    low, high = words.percent(min(shares, default=0)), words.percent(max(shares, default=0))
    adapter = f" The adapter's own products take {low if low == high else f'{low} to {high}'}." if shares else ""
    return (
        "What the largest run of each base model spent its FLOPs on, as the ledger booked them batch by batch: "
        f"colours are parts of the model, shades are phases.{adapter}"
    )


def forgetting(study: StudyReport) -> str:
    """What was learned against what was lost on other texts."""
    found = endings(study)
    if not found:
        return ""
    best, kept = found[0], min(found, key=lambda ending: ending.forgetting)
    said = f"{best.name} learns most (loss {best.loss:.3f}) and adds {best.forgetting:+.3f} nats per token on other texts"
    other = "" if kept is best else f"; {kept.name} forgets least ({kept.forgetting:+.3f}, loss {kept.loss:.3f})"
    return f"{said}{other}. Each mark is a run at its end, its area the compute; lower left is better."
