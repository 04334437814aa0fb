"""The page's first words: what to train, or the best measured and why nothing is recommended, and whether it held."""

from __future__ import annotations

import math

from isolora.json_types import JsonMapping, JsonObject
from isolora.plan import Recommendation
from isolora.report import wording as words
from isolora.report.study_report import StudyReport, Verified, key_of

Texts = JsonObject


def scope(study: StudyReport) -> str:
    """What was measured."""
    ranks = [rank for rank in study.ranks if rank is not None]
    parts = [
        words.plural(len(study.curves), "run"),
        words.plural(len(study.models), "base model"),
        words.plural(len(study.families), "method") if "method" in study.table else "",
        words.plural(len(ranks), "rank") if len(ranks) > 1 else "",
    ]
    return f"{', '.join(part for part in parts if part)}."


def measured_best(study: StudyReport) -> Texts | None:
    """For a page without a recommendation: the best cell that was measured, and why there is no advice."""
    if study.recommendation is not None or not study.cells:
        return None
    best, reasons = study.cells[0], [study.no_law] if study.no_law else list(study.no_advice)
    end = best.ends[0]
    rate = f", learning rate {end.learning_rate:.3g}" if math.isfinite(end.learning_rate) else ""
    seeds = f", mean of {len(best.ends)} runs (± {best.spread:.3f})" if len(best.ends) > 1 else ""
    tokens = f", after {words.count(float(end.tokens[-1]))} tokens" if "tokens" in study.table else ""
    measure = (study.measure if study.measured_name == study.target else f"{study.measured_name}, held out").capitalize()
    one_law = study.fit.law if study.fit and len(study.cells) == 1 else ""
    return {
        "kind": "The law of one curve" if one_law else "Best measured",
        "name": one_law or study.called(best),
        "words": f"{measure}: {study.told(best.loss)[0]:.4f}{seeds}{tokens}{rate}. {_runner_up(study)}{scope(study)}",
        "title": "No law was fitted" if study.no_law else "No recommendation",
        "reasons": [_capital(sentence) for sentence in [*(reasons or ["none was asked for"]), *_edge_warnings(study)]],
    }


def _runner_up(study: StudyReport) -> str:
    """How far the second best lies behind, beside what the seeds differ by."""
    if len(study.cells) < 2:
        return ""
    best, second = study.cells[:2]
    behind = second.loss - best.loss
    spreads = [cell.spread for cell in (best, second) if math.isfinite(cell.spread)]
    unsure = " That is less than the seeds differ by." if spreads and behind < max(spreads) else ""
    return f"Next is {study.called(second)}, {behind:.4f} behind.{unsure} "


def _edge_warnings(study: StudyReport) -> list[str]:
    edges = [cell for cell in study.cells if cell.edge]
    if not edges:
        return []
    named_ = "; ".join(f"{study.called(cell)} ({cell.edge})" for cell in edges[:4]) + ("; ..." if len(edges) > 4 else "")
    return [f"the best learning rate is the last one tried in {words.plural(len(edges), 'cell')}: {named_}"]


def advice(study: StudyReport) -> Texts | None:
    """The recommendation in words."""
    plan = study.recommendation
    if plan is None:
        return None
    expected, low, high = study.told(plan.predicted_loss, *plan.interval)
    return {
        "model": plan.model,
        "adapter": adapter(plan.method["name"], plan.method.get("rank")),
        "tokens": words.count(plan.tokens),
        "diet": f"{_diet(plan)} {study.budget_words}".strip(),
        "expectation": f"The law expects {_expected(study)} of {expected:.3f}{_unit(study)}; "
        f"with 95 % confidence a new run ends between {low:.3f} and {high:.3f}.",
        "facts": _facts(study, plan),
        "warnings": [_capital(sentence) for sentence in [*plan.warnings, *_edge_warnings(study)]],
    }


def _expected(study: StudyReport) -> str:
    return f"a held-out {study.measured_name}"


def _unit(study: StudyReport) -> str:
    return f" {study.measure.rpartition(', ')[2]}" if study.target == "loss" else ""


def _diet(plan: Recommendation) -> str:
    rate = "" if not math.isfinite(plan.learning_rate) else f" Take a learning rate of {plan.learning_rate:.3g}."
    if plan.examples is None:
        return rate.strip()
    return f"That is {words.count(plan.examples)} examples, {words.passes(plan.epochs)} over them.{rate}"


def _facts(study: StudyReport, plan: Recommendation) -> list[Texts]:
    expected, low, high = study.told(plan.predicted_loss, *plan.interval)
    factor = plan.flops / study.largest_flops
    facts = [
        {
            "name": f"Predicted {study.measured_name}",
            "value": f"{expected:.3f}",
            "note": f"95 % interval {low:.3f} to {high:.3f}",
        },
        {
            "name": "Compute",
            "value": f"{words.flops_in_words(plan.flops)} FLOPs",
            "note": f"{factor:.2g} × the largest run of the study",
        },
    ]
    if plan.seconds is not None:
        facts.append({"name": "Time", "value": words.time_in_words(plan.seconds), "note": _speed(study)})
    return [*facts, _nearest(study, plan.nearest_evidence)]


def _speed(study: StudyReport) -> str:
    if study.place.accelerator is None:
        return "at the speed measured in this study"
    return f"on {study.place.accelerator.name}, at {study.place.utilisation:.3g} of its peak in {study.precision}"


def _nearest(study: StudyReport, point: JsonMapping) -> Texts:
    """The measured point that lies closest to the recommendation."""
    runs = {run.run: run.name for run in study.curves}
    name = runs.get(str(point.get("run")), str(point.get("model", point.get("run"))))
    return {
        "name": "Nearest evidence",
        "value": name,
        "note": f"{words.count(point['tokens'])} tokens, {study.measured_name} {study.told(point['loss'])[0]:.3f}",
    }


def adapter(method: str, rank: int | None) -> str:
    """' with LoRA of rank 8', ' with full fine-tuning'; nothing for a table that names no method."""
    name = {"lora": "LoRA", "full": "full fine-tuning"}.get(method, method)
    return " with " + " of ".join(part for part in (name, f"rank {rank}" if rank else "") if part) if name or rank else ""


def proof(study: StudyReport) -> Texts | None:
    """Predicted beside measured, and where both lie on the gauge (per cent of its width)."""
    found = study.verification
    if found is None:
        return None
    predicted, *ends = study.told(found.predicted, *found.interval)
    (measured,) = study.told(found.measured)
    low, high = min(*ends, measured), max(*ends, measured)

    def place(value: float) -> float:
        return round(100 * (value - low) / max(high - low, 1e-12), 2)

    return {
        "held": lies_inside(found),
        "verdict": verdict(found),
        "words": _measured_words(study, found),
        "edge": edge_words(found, study.measured_name != study.target),
        "gain": gain_words(study, found),
        "predicted": f"{predicted:.3f}",
        "measured": f"{measured:.3f}",
        "predicted_percent": place(predicted),
        "measured_percent": place(measured),
        "low_percent": place(ends[0]),
        "width_percent": round(place(ends[1]) - place(ends[0]), 2),
    }


def lies_inside(found: Verified) -> bool:
    return found.interval[0] <= found.measured <= found.interval[1]


_NEAR_EDGE = 0.8
"""Share of the way from the prediction to the interval's end from which on a hit is called a narrow one."""


def edge_share(found: Verified) -> float:
    """Where the measurement lies: 0 at the prediction, 1 at the end of the interval on its side, more outside."""
    end = found.interval[1] if found.measured > found.predicted else found.interval[0]
    return abs(found.measured - found.predicted) / max(abs(end - found.predicted), 1e-12)


def verdict(found: Verified) -> str:
    if found.flops_over_largest_fitted <= 1:
        return "The law held." if lies_inside(found) else "The law missed."
    if not lies_inside(found):
        return "The prediction missed."
    return "The prediction held." if edge_share(found) < _NEAR_EDGE else "The prediction held, but only just."


def edge_words(found: Verified, turned: bool = False) -> str:
    """How close to the interval's edge. turned: a score is told, whose upper end is the error's lower one."""
    above = found.measured > found.predicted
    end = found.interval[1] if above else found.interval[0]
    side, share, away = "upper" if above != turned else "lower", edge_share(found), abs(end - found.measured)
    where = "inside" if lies_inside(found) else "outside"
    return f"{words.percent(share)} of the way from the prediction to the {side} end of the interval: {away:.3f} {where} it."


def gain_words(study: StudyReport, found: Verified) -> str:
    """What the law promised beyond the nearest run, beside what came of it; nothing without a recommendation."""
    plan = study.recommendation
    if plan is None:
        return ""
    reference, name = _reference(study, plan)
    promised, measured = reference - found.predicted, reference - found.measured
    if not (math.isfinite(promised) and abs(promised) > 1e-9):
        return ""
    ratio = f", {measured / promised:.1f} × what was promised" if promised > 0 else ""
    return f"Gain over {name} ({study.told(reference)[0]:.3f}): promised {promised:.3f}, measured {measured:.3f}{ratio}."


def _reference(study: StudyReport, plan: Recommendation) -> tuple[float, str]:
    """The longest run of the recommended choice, else the nearest evidence: loss and name."""
    own = [run for run in study.fitted if run.key == key_of(plan)]
    if own:
        longest = max(own, key=lambda run: float(run.tokens[-1]))
        return float(longest.loss[-1]), f"its own longest run, {words.count(float(longest.tokens[-1]))} tokens"
    return float(plan.nearest_evidence.get("loss", math.nan)), "the nearest run"


def _measured_words(study: StudyReport, found: Verified) -> str:
    where = "inside" if lies_inside(found) else "outside"
    factor = found.flops_over_largest_fitted
    (predicted,), (measured,) = study.told(found.predicted), study.told(found.measured)
    score = study.measured_name != study.target
    name = (
        study.measured_name
        if study.target == "loss"
        else f"{'an' if study.measured_name[0] in 'aeiou' else 'a'} {study.measured_name}"
    )
    off = f"{abs(measured - predicted):.3f}" if score else words.percent(found.relative_error)
    inside = "" if factor > 1 else " Within what was measured that is no prediction."
    return (
        f"The recommended adapter was then trained: {'predicted' if factor > 1 else 'expected'} {name} of {predicted:.3f}, "
        f"measured {measured:.3f}, {off} off and {where} the 95 % interval, "
        f"at {factor:.1f} × the largest compute that the law had seen.{inside}"
    )


def _capital(text: str) -> str:
    """With a capital letter, unless it begins with a name such as nano-1m, or with a parameter: a is not A."""
    first, _, rest = text.partition(" ")
    return text[:1].upper() + text[1:] if first.isalpha() and not rest.startswith("= ") else text
