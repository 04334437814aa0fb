"""Every decoder of transformers, made small: packing is refused, or no packed document sees another, short or long."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_rehearsal_everywhere import at_most, small
from test_tasks_causal_lm import batch_of, bound
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from isolora.errors import ConfigError
from isolora.tasks.base import Examples
from isolora.tasks.causal import causal_class, sees_what_follows
from isolora.tasks.causal_lm import next_tokens, packed

torch.set_num_threads(1)
LARGEST = 20_000_000
"""Weights; a few configurations stay large whatever is said of them."""
SAMPLE = {
    "llama": "apart",
    "gpt2": "apart",
    "codegen": "apart",
    "ctrl": "apart",
    "falcon": "refused",
    "gpt_oss": "refused",
    "opt": "refused",
    "bloom": "refused",
    "deepseek_v4": "refused",  # sums up blocks of tokens, which short documents do not fill
    "bailing_hybrid": "refused",
}
DECODERS = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) & set(CONFIG_MAPPING))
LENGTHS = (6, 8, 5), (150, 170, 140)


def decoder(kind: str) -> Any:
    """A model with weights large enough for a leak to be seen; None where transformers cannot build one from these numbers."""
    for absent in ((), ("head_dim",), ("head_dim", "num_key_value_heads"), ("hidden_size",)):
        numbers = {"max_position_embeddings": 600, "n_positions": 600, "rotary_dim": 4} | dict.fromkeys(absent, "absent")
        try:
            config = small(kind, **numbers)
            if hasattr(config, "text_config"):  # one for pictures too, whose decoder is built alone
                config.text_config = small(config.text_config.model_type, **numbers)
            with torch.device("meta"):
                empty = AutoModelForCausalLM.from_config(config)
            if sum(weight.numel() for weight in empty.parameters()) > LARGEST:
                return None
            model = with_large_weights(AutoModelForCausalLM.from_config(config).eval())
            padded = torch.ones(2, 16).tril(8)  # so that a mask is made
            model(input_ids=torch.arange(32).view(2, 16), attention_mask=padded, use_cache=False)
        except Exception:  # heads that do not fit these widths, and whatever else a configuration asks for
            continue
        return model
    return None


def with_large_weights(model: Any) -> Any:
    draw = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data = torch.randn(weight.shape, generator=draw) * 0.3
    return model


def packing(kind: str, model: Any) -> str:
    """ "refused", "apart", or how much a document's loss depends on another one (nats)."""
    try:
        task = bound(packing=True)
        task.auto_class(model.config)
        task.check_model(model)
    except ConfigError:
        return "refused"
    worst = max(leak(task, model, lengths, changed) for lengths in LENGTHS for changed in range(3))
    return "apart" if worst < 1e-4 else f"{worst:.2g} nats"


@torch.no_grad()
def leak(task: Any, model: Any, lengths: tuple[int, ...], changed: int) -> float:
    """Largest change of the other documents' losses when one of three in a row is another."""
    starts = np.cumsum([0, *lengths])
    entries = min(model.config.get_text_config().vocab_size, 128)
    ids = np.random.default_rng(0).integers(3, entries, starts[-1]).astype(np.int32)
    other, place = ids.copy(), slice(starts[changed], starts[changed + 1])
    other[place] = 3 + (other[place] + 4) % (entries - 3)
    losses = []
    for version in (ids, other):
        batch = batch_of(packed(next_tokens(Examples(version, version, starts)), 600))
        batch.target_rows[:] = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths) - 1)
        losses.append(task.loss(model, replace(batch, row_weights=torch.ones(3))).row_losses)
    difference = (losses[0] - losses[1]).abs()
    assert difference[changed] > 1e-3
    difference[changed] = 0
    return float(difference.max())


@pytest.mark.parametrize(("kind", "expected"), SAMPLE.items())
def test_packed_documents_stay_apart_or_packing_is_refused(kind: str, expected: str) -> None:
    assert packing(kind, decoder(kind)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(set(DECODERS) - set(SAMPLE)))
def test_packed_documents_of_every_decoder(kind: str) -> None:
    with at_most(120):
        model = decoder(kind)
        if model is None:
            pytest.skip("not built from a small configuration")
        assert packing(kind, model) in ("apart", "refused")


@pytest.mark.slow
@pytest.mark.parametrize("kind", DECODERS)
def test_decoders_that_see_what_follows_are_found(kind: str) -> None:
    """Of 138 that can be built small two do, and are refused; encoders are refused by their kind."""
    with at_most(120):
        model = decoder(kind)
        if model is None:
            pytest.skip("not built from a small configuration")
        try:
            causal_class(model.config)
        except ConfigError:
            return
        assert sees_what_follows(model) == (kind in ("bert-generation", "cpmant"))
