"""Losses are of the logits that a decoder gives, whatever it does to them before or behind its head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from person import one_line
from test_packing_everywhere import DECODERS, LARGEST, with_large_weights
from test_rehearsal_everywhere import at_most, small
from test_tasks_causal_lm import batch_of
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from isolora.config import TaskConfig
from isolora.errors import ConfigError
from isolora.runs.prepared import PreparedRun
from isolora.tasks.causal import BEHIND_THE_HEAD, causal_logits, causal_loss, gives_what_its_head_makes, plain_head
from isolora.tasks.causal_lm import next_tokens

torch.set_num_threads(1)
SAMPLE = {
    "falcon_h1": "lm_head_multiplier",
    "recurrent_gemma": "logits_soft_cap",
    "inkling_text": "logits_mup_width_multiplier",
    "granite": "logits_scaling",
    "cohere": "logit_scale",
    "llama": "",
    "llama4_text": "",  # its `base_model` is the whole model
}


def scaled(kind: str, setting: str) -> Any:
    """A decoder whose setting is 0.4, with weights large enough for that to be seen."""
    config = small(kind, mamba_d_state=8, mamba_chunk_size=16, mamba_d_ssm=32, mamba_n_heads=4)
    for each in {id(config): config, id(config.get_text_config()): config.get_text_config()}.values():
        if hasattr(each, setting):
            setattr(each, setting, 0.4)
    with torch.device("meta"):
        if sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters()) > LARGEST:
            return None
    return with_large_weights(AutoModelForCausalLM.from_config(config).eval().requires_grad_(False))


@pytest.mark.parametrize(("kind", "setting"), SAMPLE.items())
def test_logits_and_loss_are_the_models_own(kind: str, setting: str) -> None:
    """Falcon-H1 and RecurrentGemma trained and were measured on other logits than their own."""
    model, batch = scaled(kind, setting), batch_of(next_tokens(tiny.examples([7, 9, 5])))
    own = model(input_ids=batch.input_ids, use_cache=False).logits.flatten(0, 1)[batch.positions]
    torch.testing.assert_close(causal_logits(model, batch), own, rtol=1e-4, atol=1e-4)
    losses = torch.nn.functional.cross_entropy(own.float(), batch.targets, reduction="none")
    found = causal_loss(model, batch).row_losses
    torch.testing.assert_close(found.sum(), losses.sum(), rtol=1e-4, atol=1e-4)
    assert plain_head(model) == (kind == "llama")
    assert gives_what_its_head_makes(model)


def test_a_setting_of_the_text_model_inside_counts() -> None:
    """Gemma 4 for pictures too caps its logits by a setting of the inner configuration."""
    config = small("gemma4")
    config.text_config.final_logit_softcapping = 30.0  # as published
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config).requires_grad_(False)
    assert not hasattr(model.config, "final_logit_softcapping")
    assert not plain_head(model)


def test_what_no_setting_tells_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.from_files(tmp_path, steps=1).model_copy(update={"task": TaskConfig(name="causal-lm")})
    with PreparedRun.load(config) as run:
        assert gives_what_its_head_makes(run.base.model)
    plain = LlamaForCausalLM.forward

    def louder(self: Any, *given: Any, **named: Any) -> Any:
        found = plain(self, *given, **named)
        found.logits = found.logits * 3
        return found

    monkeypatch.setattr(LlamaForCausalLM, "forward", louder)
    with pytest.raises(ConfigError) as caught:
        PreparedRun.load(config)
    assert "llama changes its logits in a way that isolora does not know" in one_line(caught)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DECODERS)
def test_every_decoder_gives_what_its_head_makes(kind: str) -> None:
    """Those that do not are known by a setting's name, also where the default of the setting changes nothing."""
    with at_most(120):
        for setting in ("", *BEHIND_THE_HEAD):
            try:
                model = scaled(kind, setting)
            except Exception:
                pytest.skip("not built from a small configuration")
            if model is None:
                pytest.skip("large whatever is said of it")
            if setting and not any(hasattr(each, setting) for each in (model.config, model.config.get_text_config())):
                continue
            try:
                model(input_ids=torch.arange(3, 9)[None], use_cache=False)
            except Exception:
                pytest.skip("widths that do not fit")
            assert gives_what_its_head_makes(model)
