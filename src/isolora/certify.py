"""The round trip as a certificate: what was saved is whole, loads elsewhere with the same numbers, and scores what it scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from isolora import adapters, models
from isolora.evaluation import evaluate
from isolora.training.checkpoint import sha256

CERTIFICATE = "certificate.json"
LOGITS_TOLERANCE = 1e-4
LOSS_TOLERANCE = 1e-5
PROBE_TOKENS = 32


@dataclass(frozen=True)
class Check:
    """One property: whether it holds, and what was seen."""

    name: str
    passed: bool
    seen: str


def certify(folder: Path | str) -> list[Check]:
    """Run every check on an adapter's folder and write `certificate.json` there. A check that cannot run has failed."""
    place = adapters.find(Path(folder))
    checks = [_run(name, check, place) for name, check in CHECKS.items()]
    answer = {"passed": all(check.passed for check in checks), "checks": [vars(check) for check in checks]}
    (place / CERTIFICATE).write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    return checks


def _run(name: str, check: Callable[[Path], tuple[bool, str]], place: Path) -> Check:
    try:
        return Check(name, *check(place))
    except Exception as failure:  # whatever breaks while checking is what the certificate has to say
        return Check(name, False, f"{type(failure).__name__}: {str(failure).splitlines()[0] if str(failure) else ''}")


def _hashes(place: Path) -> tuple[bool, str]:
    """The adapter's files are those that training wrote, and no others."""
    _, record = adapters.read_record(place)
    found = {path.name: sha256(path) for path in place.glob("adapter_*")}
    written: dict[str, str] = record["files"]  # its names are compared, never opened
    changed = sorted(name for name in found.keys() | written.keys() if found.get(name) != written.get(name))
    return bool(found) and not changed, f"changed: {', '.join(changed)}" if changed else f"{len(found)} files as written"


def _finite(place: Path) -> tuple[bool, str]:
    """No tensor holds NaN or infinity."""
    tensors = load_file(str(place / "adapter_model.safetensors"))
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    return not broken, f"not finite: {broken[0]}" if broken else f"{len(tensors)} tensors finite"


def _base(place: Path) -> tuple[bool, str]:
    """The base model's weights are those that the adapter was trained on."""
    config, record = adapters.read_record(place)
    found = models.fingerprint(config.model)
    same = found == record["base"]
    return same, f"{config.model}: {found}" + ("" if same else f", trained on {record['base']}")


def _peft(place: Path) -> tuple[bool, str]:
    """PEFT's own loader gives the same logits."""
    from peft import PeftModel

    ours = _logits(adapters.load(place).base.model)
    bare = adapters.bare_base(place)
    theirs = _logits(PeftModel.from_pretrained(bare.model, str(place)))
    return _close(ours, theirs)


def _merged(place: Path) -> tuple[bool, str]:
    """Folding the adapter into the weights changes nothing."""
    adapter = adapters.load(place)
    before = _logits(adapter.base.model)
    return _close(before, _logits(adapter.attached.merge(0)))


def _score(place: Path) -> tuple[bool, str]:
    """The loss recomputed from the folder is the one recorded at the end of training."""
    result = evaluate(place)
    difference = result["relative_difference"]
    return difference <= LOSS_TOLERANCE, f"{result['loss']:.6f}, recorded {result['recorded_loss']:.6f}"


CHECKS: dict[str, Callable[[Path], tuple[bool, str]]] = {
    "hashes": _hashes,
    "finite": _finite,
    "base": _base,
    "peft": _peft,
    "merged": _merged,
    "score": _score,
}


@torch.no_grad()
def _logits(model: Any) -> torch.Tensor:
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(PROBE_TOKENS).mul(7919).remainder(vocabulary)[None]
    logits: torch.Tensor = model.eval()(input_ids=ids).logits
    return logits


def _close(a: torch.Tensor, b: torch.Tensor) -> tuple[bool, str]:
    difference = float((a - b).abs().max())
    return difference <= LOGITS_TOLERANCE, f"largest difference of logits {difference:.1e}"
