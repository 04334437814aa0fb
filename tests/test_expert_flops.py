"""Mixtures of experts: one price, whichever way transformers multiplies by the experts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_ledger_matrix import unknown_to_torch
from test_rehearsal_everywhere import written
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from isolora import models
from isolora.config import RunConfig, parse
from isolora.cost.flops import attach_for_rehearsal, rehearse, task_batch
from isolora.cost.step_profiler import REAL_FORMULAS
from isolora.ledger import BatchShape

SHAPE = BatchShape(2, 16, 30)
WAYS = ("eager", "batched_mm", "grouped_mm")


def grouped(left: list[int], right: list[int], *_: object, **__: object) -> int:
    """Shapes of rows [rows, in] and experts [experts, in, out], which torch's counter takes for nothing."""
    return 2 * left[0] * left[1] * right[-1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["olmoe", "mixtral"])
def test_the_ledger_is_what_a_real_step_does(kind: str, way: str, tmp_path: Path) -> None:
    assert written(kind, tmp_path)
    run = parse(RunConfig, {"model": str(tmp_path), "task": "causal-lm", "method": {"rank": 4}, "training": {"steps": 1}})
    task, model = models.bound_task(run), AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    models.narrow_last_layer(model)
    model.set_experts_implementation(way)
    attached = attach_for_rehearsal(run, task, model)
    known = {**unknown_to_torch(), torch.ops.aten._grouped_mm: grouped}
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False, custom_mapping=known) as counter,
        attached.rows([(0, 0, -1)]),
    ):
        task.loss(attached.model, task_batch(task, SHAPE, "cpu")).objective.backward()
    assert counter.get_total_flops() == rehearse(run).flops(SHAPE).total


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # which PEFT still asks for
@pytest.mark.parametrize("way", WAYS)
def test_torchs_own_counter_differs_by_what_it_leaves_out_and_by_logits_without_labels(way: str, tmp_path: Path) -> None:
    """OLMoE with eager attention under PEFT, 2 rows of 48 tokens. transformers makes logits of each row's last position too, and
    torch's counter takes grouped products for nothing."""
    assert written("olmoe", tmp_path)
    given = {"rank": 4, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    run = parse(RunConfig, {"model": str(tmp_path), "task": "causal-lm", "method": given, "training": {"steps": 1}})
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path), attn_implementation="eager")
    model.set_experts_implementation(way)
    adapted, ids = get_peft_model(model, LoraConfig(r=4, target_modules=given["targets"])), torch.arange(96).view(2, 48)
    with FlopCounterMode(display=False) as counter:
        adapted(input_ids=ids, labels=ids).loss.backward()
    ours = rehearse(run).flops(BatchShape(2, 48, 94))
    experts = sum(ours.by_group()["experts"].values())
    router = 96 * 2 * 32 * 4 * 2 * 2  # layers, forward and back
    last_positions = 2 * 2 * 2 * 32 * 128
    if way != "grouped_mm":
        last_positions += 2 * experts / (96 + 94)  # in the last layer, where ours has 94 positions
    left_out = experts - router if way == "grouped_mm" else 0
    assert counter.get_total_flops() == pytest.approx(ours.total + last_positions - left_out, rel=1e-12)


def test_experts_are_booked_as_experts(tmp_path: Path) -> None:
    """Two products of gate, up and down with 2 of 4 experts, each position: 2 layers, width 32, 24 inside."""
    assert written("mixtral", tmp_path)
    run = parse(RunConfig, {"model": str(tmp_path), "task": "causal-lm", "method": {"rank": 4}, "training": {"steps": 1}})
    forward = rehearse(run).flops(SHAPE).by_group()["experts"]["forward"]
    inside = AutoConfig.from_pretrained(tmp_path).intermediate_size
    assert forward == 2 * 32 * (2 * 2 * 3 * 32 * inside + 2 * 32 * 4)


def test_the_cross_check_knows_grouped_products() -> None:
    assert str(torch.ops.aten._grouped_mm) in REAL_FORMULAS
