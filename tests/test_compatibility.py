"""What vLLM and llama.cpp do not take is said beforehand, each reason by its name in the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from isolora.adapters.compatibility import compatibility_warnings

LORA = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none", "modules_to_save": None, "rank_pattern": {}}
PAIR = ("base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight")


def written(folder: Path, names: tuple[str, ...] = PAIR, **changes: Any) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps(LORA | changes))
    save_file({name: torch.zeros(2) for name in names}, folder / "adapter_model.safetensors")
    return folder


def test_plain_lora_is_taken(tmp_path: Path) -> None:
    assert compatibility_warnings(written(tmp_path)) == []


@pytest.mark.parametrize(
    ("names", "changes", "expected"),
    [
        (PAIR, {"modules_to_save": ["score"]}, ["vLLM refuses modules_to_save (score)"]),
        (PAIR, {"use_dora": True}, ["vLLM refuses DoRA"]),
        (PAIR, {"bias": "all"}, ["vLLM refuses trained biases (bias=all)"]),
        (PAIR, {"r": 513}, ["vLLM refuses rank 513 (at most 512)"]),
        (PAIR, {"r": 17}, ["vLLM refuses rank 17 unless started with --max-lora-rank 32"]),
        (PAIR, {"r": 16}, []),
        (PAIR, {"rank_pattern": {"q": 65}}, ["--max-lora-rank 128", "vLLM scales every layer alike"]),
        (PAIR, {"use_rslora": True}, ["llama.cpp scales by alpha/rank"]),
        (
            (*PAIR, "base_model.model.lm_head.weight"),
            {},
            ["llama.cpp refuses tensors beside lora_A and lora_B (base_model.model.lm_head.weight)"],
        ),
        (("m.embed.lora_embedding_A", "m.embed.lora_embedding_B"), {}, ["vLLM takes adapted embeddings only"]),
        (PAIR, {"peft_type": "VERA"}, ["vLLM and llama.cpp read LoRA adapters only, not VERA"]),
    ],
)
def test_each_reason_is_named(names: tuple[str, ...], changes: dict[str, Any], expected: list[str], tmp_path: Path) -> None:
    found = compatibility_warnings(written(tmp_path, names, **changes))
    assert len(found) == len(expected)
    for sentence, part in zip(found, expected, strict=True):
        assert part in sentence
