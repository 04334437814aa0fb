"""Checks of what an adapter does: in PEFT, merged, and on the held-out examples, the same as here and at the end of training."""

from __future__ import annotations

from typing import Any

import torch

from isolora import adapters, registry
from isolora.adapters.record import beyond_peft
from isolora.certify.contents import Verdict
from isolora.certify.subject import NotApplicableError, Subject
from isolora.evaluation import evaluate
from isolora.methods.peft.configuration import quietly
from isolora.models import Base

LOGITS_TOLERANCE = 1e-4
LOSS_TOLERANCE = 1e-5
METRIC_TOLERANCE = 1e-2
"""Relative; a measure that counts jumps by one example where kernels round differently, a loss does not."""
PROBE_TOKENS = 32


def peft(subject: Subject) -> Verdict:
    """PEFT's own loader gives the same logits."""
    beyond = beyond_peft(subject.place)
    if beyond and subject.record.get("format") != "peft":
        raise NotApplicableError(f"PEFT's format has no place for {beyond}")
    from peft import PeftModel

    ours = logits(subject.adapter.attached.model, subject.adapter.base)
    bare = adapters.bare_base(subject.place)
    with quietly():
        theirs = PeftModel.from_pretrained(bare.model, str(subject.place))
    return _close(ours, logits(theirs, bare))


def merged(subject: Subject) -> Verdict:
    """Folding the adapter into the weights changes nothing."""
    name = subject.config.method.name
    if not registry.load("method", name).mergeable:
        raise NotApplicableError(f"adapters of method {name} cannot be folded into the base's weights")
    adapter = adapters.load(subject.place, full_precision=True)  # not the shared one, which others still need
    before = logits(adapter.attached.model, adapter.base)
    return _close(before, logits(adapter.attached.merge(0), adapter.base))


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


@torch.no_grad()
def logits(model: Any, base: Base) -> torch.Tensor:
    """All scores [n] of one fixed row of tokens, whatever the model's head gives."""
    ids = torch.arange(min(PROBE_TOKENS, base.max_length)).mul(7919).remainder(len(base.tokenizer))[None]
    if base.tokenizer.eos_token_id is not None:
        ids[0, -1] = base.tokenizer.eos_token_id  # where BART's classifier looks
    ids = ids.to(next(base.model.parameters()).device)
    decoder = {"decoder_input_ids": ids} if base.model.config.is_encoder_decoder and base.model.can_generate() else {}
    answer = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids), **decoder)
    found = [answer[name].flatten() for name in ("logits", "start_logits", "end_logits") if name in answer]
    return torch.cat(found)


def _close(a: torch.Tensor, b: torch.Tensor) -> Verdict:
    difference = float((a - b).abs().max())
    return difference <= LOGITS_TOLERANCE, f"largest difference of logits {difference:.1e}"
