"""Checks of what an adapter does: in PEFT, merged, and on the held-out examples, the same as here and at the end of training."""

from __future__ import annotations

import torch

from isolora import adapters, registry
from isolora.adapters import plain, round_trip
from isolora.adapters.record import beyond_peft
from isolora.certify.contents import NotApplicableError, Subject, Verdict
from isolora.evaluation import evaluate

LOSS_TOLERANCE = 1e-5
METRIC_TOLERANCE = 1e-2
"""Relative; a measure that counts jumps by one example where kernels round differently, a loss does not."""


def peft(subject: Subject) -> Verdict:
    """transformers and PEFT alone, in a fresh process, give the same logits on the base as it is published."""
    beyond = beyond_peft(subject.place)
    if beyond and subject.record.get("format") != "peft":
        raise NotApplicableError(f"PEFT's format has no place for {beyond}")
    live = adapters.load(subject.place, full_precision=True, device="cpu")
    return _close(round_trip.adapter_scores(live), round_trip.in_peft(subject.place, round_trip.probe_on_device(live.base)))


def merged(subject: Subject) -> Verdict:
    """Folding the adapter into the weights changes nothing."""
    name = subject.config.method.name
    if not registry.load_plug_in("method", name).mergeable:
        raise NotApplicableError(f"adapters of method {name} cannot be folded into the base's weights")
    live = adapters.load(subject.place, full_precision=True, device="cpu")  # not the shared one, which others still need
    before = round_trip.adapter_scores(live)
    return _close(before, plain.plain_scores(live.attached.merge(0), round_trip.probe_on_device(live.base)))


def score(subject: Subject) -> Verdict:
    """The loss and the measures recomputed from the folder are those recorded at the end of training."""
    result = evaluate(subject.place, repeats=0)
    recorded = subject.record.get("metrics", {})
    far = [name for name, value in recorded.items() if not _near(result["metrics"].get(name), value)]
    seen = f"{result['loss']:.6f}, recorded {result['recorded_loss']:.6f}"
    seen += "".join(f"; {name} {result['metrics'].get(name)}, recorded {recorded[name]}" for name in far)
    return result["relative_difference"] <= LOSS_TOLERANCE and not far, seen


def _near(value: float | None, recorded: float) -> bool:
    if value is None or recorded != recorded:  # an undefined measure is NaN and stays it
        return value is not None and value != value
    return abs(value - recorded) <= METRIC_TOLERANCE * max(abs(recorded), METRIC_TOLERANCE)


def _close(a: torch.Tensor, b: torch.Tensor) -> Verdict:
    difference = round_trip.largest_difference(a, b)
    return difference <= round_trip.tolerance(a), f"largest difference of logits {difference:.1e}"
