"""What plain transformers and PEFT make of a folder. Nothing of isolora is imported here: this file also runs as a script.

As a script it reads one request as JSON, `{"base": ..., "auto_class": ..., "options": {...}, "adapter": ... or null,
"ids": [[...]]}`, and answers `{"scores": [...]}` or `{"failure": "..."}`. So a certificate shares no assumption with the loader
that it checks: no seed, no label, no weight that isolora alone would know of.
"""

from __future__ import annotations

import gc
import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE_TOKENS = 32


def probe_row(vocabulary: int, positions: int, last: int | None) -> Tensor:
    """One fixed row of tokens [1, length]; `last` stands at its end, where BART's classifier looks for the text's end."""
    ids = torch.arange(min(PROBE_TOKENS, positions)).mul(7919).remainder(vocabulary)[None]
    if last is not None:
        ids[0, -1] = last
    return ids


@torch.no_grad()
def plain_scores(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """All scores [n] that a model gives these tokens [1, length], whatever its head gives, on the CPU."""
    config = model.config
    second = {"decoder_input_ids": ids} if config.is_encoder_decoder and model.can_generate() else {}
    with _without_cache(config):
        answer = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids), **second)
    found = [answer[name].flatten() for name in ("logits", "start_logits", "end_logits") if name in answer]
    return torch.cat(found).float().cpu()


@contextmanager
def _without_cache(config: Any) -> Iterator[None]:
    """transformers cannot make a cache for models whose layers are all linear attention, and one pass needs none. By the
    configuration, since not every model takes the argument."""
    text = config.get_text_config()
    before = text.use_cache if hasattr(text, "use_cache") else None
    if before is not None:
        text.use_cache = False
    try:
        yield
    finally:
        if before is not None:
            text.use_cache = before


def loaded(base: str, auto_class: str, options: dict[str, Any], adapter: str | None = None) -> Any:
    """A model in float32 by transformers' own loader, and on it an adapter by PEFT's."""
    import transformers

    with _silence(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(transformers, auto_class).from_pretrained(base, dtype=torch.float32, **options)
        if adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter)
            _insist_on_targets(adapter, model)
    return model


@contextmanager
def _silence() -> Iterator[None]:
    """Within, transformers tells of errors alone; afterwards it speaks as before."""
    from transformers import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _insist_on_targets(adapter: str, model: Any) -> None:
    """Raises ValueError where PEFT adapts other layers than the file names, as it does for mixtures of experts that transformers
    has fused since: `gate_proj` of a dense layer or of a shared expert is taken for the experts', and its tensors are dropped."""
    written = json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))
    read = next(iter(model.peft_config.values()))
    if not getattr(read, "target_parameters", None) or written.get("target_parameters"):
        return
    named = written.get("target_modules")
    lost = ", ".join(sorted(set(named) - set(read.target_modules))) if isinstance(named, list) else str(named)
    raise ValueError(
        f"it takes the targets {lost} of {model.config.model_type} for the fused experts, which this adapter does not adapt;"
        " adapt attention alone (method.targets), or export --to merged"
    )


def leave_bitsandbytes(base: str) -> None:
    """PEFT imports it in case that a layer is one of its own, and with it torch's compiler: a fifth of this script's processor
    time. The base's configuration says whether there are such layers."""
    config = Path(base) / "config.json"
    if config.is_file() and "quantization_config" not in json.loads(config.read_text(encoding="utf-8")):
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # not to be found


def main() -> None:
    """Answer the request on standard input."""
    gc.set_threshold(50_000, 20, 50)  # searching imports for garbage took 2 of this script's 5 processor seconds
    asked = json.load(sys.stdin)
    try:
        leave_bitsandbytes(asked["base"])
        model = loaded(asked["base"], asked["auto_class"], asked["options"], asked["adapter"])
        answer: dict[str, Any] = {"scores": plain_scores(model, torch.tensor(asked["ids"])).tolist()}
    except Exception as failure:  # whatever goes wrong in another's loader is the answer
        answer = {"failure": f"{type(failure).__name__}: {' '.join(str(failure).split())[:300]}"}
    assert "isolora" not in sys.modules
    print(json.dumps(answer))
    gc.freeze()  # nor is all that is there looked through at the end


if __name__ == "__main__":
    main()
