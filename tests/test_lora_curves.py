"""Our LoRA beside PEFT's on the tasks of a RoBERTa: from the same weights, over the same batches, the same loss curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from isolora import registry
from isolora.methods.lora import LoraSettings

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
STEPS = 30
MODELS = {"classification": (tiny.roberta_classifier, "classifier"), "questions": (tiny.roberta_questions, "qa_outputs")}


def batches(task: str) -> list[dict[str, Tensor]]:
    """Learnable: the class is that of the second token; the answer stands between the largest and the smallest one."""
    found = []
    for step in range(STEPS):
        ids = tiny.ids(rows=8, length=12, seed=step)
        ends = torch.stack([ids.argmax(1), ids.argmin(1)]).sort(0).values
        labels = {"labels": ids[:, 1] % 2} if task == "classification" else {"start_positions": ends[0], "end_positions": ends[1]}
        found.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), **labels})
    return found


def curve(model: Any, trained: Sequence[Tensor], task: str) -> list[float]:
    optimizer = torch.optim.AdamW(trained, lr=3e-3, weight_decay=0.01)
    losses = []
    for batch in batches(task):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def pair(task: str) -> tuple[Any, Any]:
    """Ours and PEFT's with the same factors and the same new head."""
    build, head = MODELS[task]
    settings = LoraSettings(rank=4, alpha=8, targets=["query", "key", "value", "dense"])
    ours = registry.load_plug_in("method", "lora").attach(build(), [settings], [0], heads=True)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["query", "key", "value", "dense"], exclude_modules=rf"{head}.*", modules_to_save=[head]
    )
    theirs = get_peft_model(build(), config).eval()
    parameters = {name.replace(".default", "").replace(".modules_to_save", ""): p for name, p in theirs.named_parameters()}
    with torch.no_grad():
        for name, tensor in ours._named(0):
            parameters[name].copy_(tensor)
    return ours, theirs


@pytest.mark.parametrize("task", MODELS)
def test_same_curve_as_peft(task: str, tmp_path: Path) -> None:
    ours, theirs = pair(task)
    mine = curve(ours.model, ours.tensors(0), task)
    yours = curve(theirs, [p for p in theirs.parameters() if p.requires_grad], task)
    assert mine == pytest.approx(yours, rel=2e-5)
    assert sum(mine[-5:]) < 0.97 * sum(mine[:5]), "a curve that does not fall would prove nothing"

    ours.save(0, tmp_path / "ours")
    theirs.save_pretrained(str(tmp_path / "theirs"))
    sizes = [(tmp_path / side / "adapter_model.safetensors").stat().st_size for side in ("ours", "theirs")]
    assert sizes[0] == sizes[1]
