"""Adapters of mixtures of experts, handed over: PEFT reads some targets as experts' that are none, and is not believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peft import PeftModel
from test_rehearsal_everywhere import small
from transformers import AutoModelForCausalLM

from isolora.adapters.export import export_adapter
from isolora.training import train

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def made(folder: Path, kind: str, targets: Any) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(small(kind, vocab_size=tiny.VOCABULARY, eos_token_id=60, max_position_embeddings=64))
    config = tiny.from_files(folder, steps=2, method={"rank": 1, "targets": targets, "dropout": 0.1})
    train(config.model_copy(update={"model": tiny.save(folder / "base", model)}), folder / "out", quiet=True)
    return folder / "out"


@pytest.mark.parametrize("targets", ["all-linear", ["gate_proj", "up_proj"], ["up_proj"]])
@pytest.mark.parametrize("kind", ["ernie4_5_moe", "afmoe"])
def test_layers_that_peft_would_take_for_experts(kind: str, targets: Any, tmp_path: Path) -> None:
    """PEFT takes `gate_proj` of a shared expert for that of the fused ones, and loads no tensor for either, with a warning."""
    place = made(tmp_path, kind, targets)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    plain = base(tiny.ids()).logits
    theirs = PeftModel.from_pretrained(base, str(place / "adapter"))(tiny.ids()).logits
    merged = AutoModelForCausalLM.from_pretrained(export_adapter(place, "merged", tmp_path / "merged").folder)
    assert not torch.allclose(theirs, plain, atol=1e-4)
    torch.testing.assert_close(theirs, merged(tiny.ids()).logits, rtol=0, atol=1e-5)
    assert export_adapter(place, "peft", tmp_path / "peft").folder.is_dir()


def test_attention_alone_is_read_as_it_is_written(tmp_path: Path) -> None:
    place = made(tmp_path, "ernie4_5_moe", ATTENTION)
    assert export_adapter(place, "peft", tmp_path / "peft").folder.is_dir()


def test_layers_of_linear_attention_alone_are_handed_over(tmp_path: Path) -> None:
    """transformers makes no cache for them: export ended in its ValueError."""
    place = made(tmp_path, "qwen3_next", ["in_proj_qkvz", "out_proj"])
    merged = export_adapter(place, "merged", tmp_path / "merged").folder
    assert AutoModelForCausalLM.from_pretrained(merged).config.use_cache is True
