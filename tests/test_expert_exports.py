"""Adapters of mixtures of experts, handed over: PEFT reads some targets as experts' that are none, and is not believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from person import one_line
from test_rehearsal_everywhere import small
from transformers import AutoModelForCausalLM

from isolora.adapters.export import export_adapter
from isolora.errors import DataError
from isolora.training import train

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def made(folder: Path, kind: str, targets: Any) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(small(kind, vocab_size=tiny.VOCABULARY, eos_token_id=60, max_position_embeddings=64))
    config = tiny.from_files(folder, steps=2, method={"rank": 1, "targets": targets})
    train(config.model_copy(update={"model": tiny.save(folder / "base", model)}), folder / "out", quiet=True)
    return folder / "out"


def test_targets_that_peft_takes_for_experts_are_named(tmp_path: Path) -> None:
    """PEFT took `gate_proj` of a shared expert for that of the fused ones, and loaded no tensor for either; the export said only
    that logits differ."""
    place = made(tmp_path, "ernie4_5_moe", "all-linear")
    with pytest.raises(DataError) as caught:
        export_adapter(place, "peft", tmp_path / "peft")
    assert "it takes the targets down_proj, gate_proj, up_proj of ernie4_5_moe for the fused experts" in one_line(caught)
    assert not (tmp_path / "peft").exists()
    export_adapter(place, "merged", tmp_path / "merged")


def test_attention_alone_is_read_as_it_is_written(tmp_path: Path) -> None:
    place = made(tmp_path, "ernie4_5_moe", ATTENTION)
    assert export_adapter(place, "peft", tmp_path / "peft").folder.is_dir()


def test_layers_of_linear_attention_alone_are_handed_over(tmp_path: Path) -> None:
    """transformers makes no cache for them: export ended in its ValueError."""
    place = made(tmp_path, "qwen3_next", ["in_proj_qkvz", "out_proj"])
    merged = export_adapter(place, "merged", tmp_path / "merged").folder
    assert AutoModelForCausalLM.from_pretrained(merged).config.use_cache is True
