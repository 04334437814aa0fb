"""Targets that the model never runs are refused before anything is trained: an adapter there would be one without effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from person import one_line
from torch import nn

from isolora.config import MethodConfig, RunConfig, TaskConfig
from isolora.cost.flops import rehearse
from isolora.cost.idle_targets import leaves, named_targets, watched
from isolora.errors import ConfigError

torch.set_num_threads(1)


def a_run(folder: Path, kind: str, **method: Any) -> RunConfig:
    model = tiny.save(folder / kind, tiny.ARCHITECTURES[kind]())
    update = {"model": model, "task": TaskConfig(name="summarization"), "method": MethodConfig(**method)}
    return tiny.run(steps=2).model_copy(update=update)


@pytest.mark.parametrize(
    "method",
    [
        {"name": "lora", "rank": 2, "targets": ["shared"]},
        {"name": "lora", "rank": 2, "targets": ["q_proj", "shared"]},
        {"name": "lora", "rank": 2, "targets": ".*shared"},
        {"name": "peft:LORA", "r": 2, "target_modules": ["v_proj", "shared"]},
    ],
    ids=["alone", "beside others", "a pattern", "of PEFT"],
)
def test_a_shared_embedding_that_is_never_looked_up(method: dict[str, Any], tmp_path: Path) -> None:
    """Alone it ended in a line about tensors without gradients; beside others it was an adapter that nothing trained."""
    with pytest.raises(ConfigError) as caught:
        rehearse(a_run(tmp_path, "bart", **method))
    line = one_line(caught)
    assert "the model never runs" in line
    assert "shared" in line
    assert "its weight is used in model.encoder.embed_tokens, model.decoder.embed_tokens, lm_head" in line


@pytest.mark.parametrize("targets", [["embed_tokens", "lm_head"], ["q_proj"], "all-linear", ".*fc1"])
def test_layers_that_run_are_adapted(targets: Any, tmp_path: Path) -> None:
    assert rehearse(a_run(tmp_path, "bart", name="lora", rank=2, targets=targets)).trainable_parameters > 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"name": "lora", "targets": ["a", "b"]}, ("targets", ["a", "b"])),
        ({"name": "lora", "targets": "all-linear"}, ("", [])),
        ({"name": "lora"}, ("", [])),
        ({"name": "peft:LORA", "target_modules": ".*q"}, ("target_modules", [".*q"])),
    ],
)
def test_what_a_person_named(given: dict[str, Any], expected: tuple[str, list[str]]) -> None:
    assert named_targets(MethodConfig(**given)) == expected


def test_a_module_that_is_called_is_noted_and_nothing_is_left_on_it() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with watched(leaves(model)) as ran:
        model[2](torch.zeros(1, 2))
    assert ran == {"2"}
    assert not model[2]._forward_pre_hooks
