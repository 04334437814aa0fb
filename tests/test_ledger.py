"""The ledger against torch's FLOP counter over real steps, and against sums worked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from isolora import registry
from isolora.config import RunConfig
from isolora.cost.flops import rehearse
from isolora.errors import ConfigError
from isolora.ledger import GROUPS, PHASES, TERMS, BatchShape, Flops, Ledger
from isolora.models import narrow_last_layer
from isolora.tasks.base import Batch

torch.set_num_threads(1)
SHAPES = ((3, 11, 20), (2, 29, 57), (5, 7, 35))
"""(rows, length, labels); none is rehearsed."""
LAST_LAYER = {"llama": r"model\.layers\.1\..*_proj", "gpt2": r"transformer\.h\.1\..*"}
ADAPTERS: dict[str, Any] = {
    "all-linear": {"targets": "all-linear"},
    "dropout": {"targets": "all-linear", "dropout": 0.2},
    "embedding": {"targets": r".*(embed_tokens|wte|q_proj|c_attn)"},
    "head": {"targets": r".*(lm_head|down_proj|c_proj)"},
}


def a_run(folder: Path, kind: str, **method: Any) -> RunConfig:
    model = tiny.MODELS[kind]()
    model.config.save_pretrained(folder)
    return tiny.run(method={"rank": 3, **method}).model_copy(update={"model": str(folder)})


def a_batch(rows: int, length: int, labels: int) -> Batch:
    positions = torch.arange(labels)
    return Batch(
        tiny.ids(rows, length),
        positions,
        positions % tiny.VOCABULARY,
        positions // length,
        torch.ones(rows),
        torch.full((rows,), length),
    )


def addmm_flops(_: Any, a: Any, b: Any, **more: Any) -> int:
    """a [m, k] and b [k, n] arrive as shapes; torch's counter does not know the product in place."""
    return 2 * a[0] * a[1] * b[1]


def counted(config: RunConfig, kind: str, shape: tuple[int, int, int]) -> int:
    """FLOPs of a real forward and backward pass on the CPU, attention done in plain products."""
    method = registry.load_plug_in("method", "lora")
    attached = method.attach(tiny.MODELS[kind](), [method.settings(config.method.fields())], [0])
    if config.training.gradient_checkpointing:
        attached.model.activation_checkpointing_enable()
    attached.train(True)
    narrow_last_layer(attached.model)  # as a loaded base is
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: addmm_flops})
    with sdpa_kernel(SDPBackend.MATH), counter:
        registry.load_plug_in("task", "causal-lm").loss(attached.model, a_batch(*shape)).objective.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", LAST_LAYER)
@pytest.mark.parametrize("adapters", [*ADAPTERS, "last layer"])
def test_equals_torchs_counter_over_real_steps(kind: str, adapters: str, tmp_path: Path) -> None:
    config = a_run(tmp_path, kind, **ADAPTERS.get(adapters, {"targets": LAST_LAYER[kind]}))
    ledger = rehearse(config)
    for shape in SHAPES:
        assert ledger.flops(BatchShape(*shape)).total == pytest.approx(counted(config, kind, shape), rel=1e-9), shape


def test_nothing_is_spent_below_the_first_trained_module(tmp_path: Path) -> None:
    whole = rehearse(a_run(tmp_path, "llama", targets="all-linear")).flops(BatchShape(2, 10, 20))
    last = rehearse(a_run(tmp_path, "llama", targets=LAST_LAYER["llama"])).flops(BatchShape(2, 10, 20))
    assert last.backward_weights == pytest.approx(whole.backward_weights / 2)
    assert last.backward_inputs < 0.6 * whole.backward_inputs


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_gradients_to_weights_are_two_thin_products_per_module(kind: str, tmp_path: Path) -> None:
    rank, rows, length = 3, 4, 13
    ledger = rehearse(a_run(tmp_path, kind, targets="all-linear"))
    linears = {
        "llama": [(16, 16), (16, 8), (16, 8), (16, 16), (16, 40), (16, 40), (40, 16)],
        "gpt2": [(16, 48), (16, 16), (16, 64), (64, 16)],
    }
    expected = sum(2 * rows * length * rank * (inputs + outputs) for inputs, outputs in 2 * linears[kind])
    assert ledger.flops(BatchShape(rows, length, rows * length)).backward_weights == pytest.approx(expected, rel=1e-12)


def test_phases_by_hand(tmp_path: Path) -> None:
    """A tiny LLaMA: 2 layers, width 16, 4 heads of 4 (2 of keys and values), inner width 40, rank 3 on every linear layer; the
    last feed-forward sees labelled positions alone."""
    rows, length, labels, rank = 3, 11, 20, 3
    tokens = rows * length
    layer = [(16, 16), (16, 8), (16, 8), (16, 16), (16, 40), (16, 40), (40, 16)]
    products = [(tokens, *sides) for sides in layer + layer[:4]] + [(labels, *sides) for sides in layer[4:]]
    linear = sum(2 * seen * inputs * outputs for seen, inputs, outputs in products)
    thin = sum(2 * seen * rank * (inputs + outputs) for seen, inputs, outputs in products)
    attention = 2 * 2 * (2 * rows * length**2 * 16)  # scores and their use as weights, in 2 layers
    head = 2 * labels * 16 * tiny.VOCABULARY
    first = sum(2 * tokens * (inputs * outputs + rank * inputs) for inputs, outputs in layer[:3])  # nothing flows below
    flops = rehearse(a_run(tmp_path, "llama", targets="all-linear")).flops(BatchShape(rows, length, labels))
    assert flops.forward == pytest.approx(linear + thin + attention + head, rel=1e-12)
    assert flops.backward_inputs == pytest.approx(linear + thin + 2 * attention + head - first, rel=1e-12)
    assert flops.backward_weights == pytest.approx(thin, rel=1e-12)


def test_about_four_per_frozen_and_six_per_trained_weight(tmp_path: Path) -> None:
    """Per token, for a body that outweighs attention: the rule of thumb that the exact count replaces."""
    model = tiny.llama(hidden_size=256, intermediate_size=700, num_hidden_layers=4)
    model.config.save_pretrained(tmp_path)
    ledger = rehearse(tiny.run(method={"rank": 8}).model_copy(update={"model": str(tmp_path)}))
    flops = ledger.flops(BatchShape(1, 8, 8))
    per_token = (flops.total - sum(flops.by_group()["head"].values())) / 8
    assert per_token == pytest.approx(4 * ledger.body_parameters + 6 * ledger.trainable_parameters, rel=0.05)


def test_what_a_step_is_priced_by() -> None:
    """Per row, row·length, row·length², label and step; per row·second, row·second², row·second·length."""
    coefficients = np.zeros((len(PHASES), len(GROUPS), TERMS))
    coefficients[PHASES.index("forward"), GROUPS.index("head")] = [10.0**power for power in range(8)]
    coefficients[PHASES.index("reference"), GROUPS.index("head"), 0] = 1
    ledger = Ledger(coefficients, 1, 1, 1)
    assert ledger.flops(BatchShape(2, 3, 4)).forward == 2 + 2 * 3 * 10 + 2 * 9 * 100 + 4 * 1000 + 10000
    assert (
        ledger.flops(BatchShape(2, 3, 4, 5)).forward - ledger.flops(BatchShape(2, 3, 4)).forward == 10 * 1e5 + 50 * 1e6 + 30 * 1e7
    )
    assert ledger.flops(BatchShape(2, 3, 4)).reference == 2
    assert ledger.flops(BatchShape(2, 3, 4), first_pass=False).reference == 0


def test_flops_add_up() -> None:
    one = np.zeros((len(PHASES), len(GROUPS)))
    one[:, GROUPS.index("experts")] = [1, 2, 3, 4, 5]
    total = Flops(one) + Flops(10 * one)
    assert tuple(total.to_json().items())[:-1] == tuple(zip(PHASES, (11, 22, 33, 44, 55), strict=True))
    assert total.to_json()["total"] == total.total == 165
    assert total.by_group() == {"experts": dict(zip(PHASES, (11, 22, 33, 44, 55), strict=True))}


def test_what_cannot_be_found_is_one_line() -> None:
    with pytest.raises(ConfigError, match="model: cannot load 'nano-1q'; did you mean") as caught:
        rehearse(RunConfig(model="nano-1q"))
    assert "\n" not in str(caught.value)


def test_gradient_checkpointing_is_booked_apart(tmp_path):
    run = a_run(tmp_path, "llama", targets="all-linear")
    checkpointed = run.model_copy(update={"training": run.training.model_copy(update={"gradient_checkpointing": True})})
    plain, again = rehearse(run).flops(BatchShape(2, 24, 46)), rehearse(checkpointed).flops(BatchShape(2, 24, 46))
    assert again.total == pytest.approx(counted(checkpointed, "llama", (2, 24, 46)), rel=1e-9)
    assert (again.forward, again.backward_weights) == pytest.approx((plain.forward, plain.backward_weights))
    assert plain.recomputation == 0
    assert 0.3 * plain.forward < again.recomputation < plain.forward
