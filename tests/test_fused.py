"""Fused parts of a base: the same outputs and gradients as transformers' own code, in every architecture that has them."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import tiny
import torch
from test_rehearsal_everywhere import written
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from isolora import models
from isolora.models.fused import fuse, rotary, same_code

MOST_PARAMETERS = 20_000_000
"""Some configurations stay large."""
SAMPLE = ("llama", "qwen2", "qwen3", "mistral", "olmoe", "gemma3_text", "phi3", "gpt2")


def fused_parts(model: Any) -> dict[str, int]:
    """Class of each part that was replaced, and how many of them."""
    found: dict[str, int] = {}
    for module in model.modules():
        if "forward" in vars(module):
            found[type(module).__name__] = found.get(type(module).__name__, 0) + 1
    return found


def states_and_gradients(model: Any, ids: torch.Tensor, **given: Any) -> list[torch.Tensor]:
    """Of the last hidden states' weighted sum: the states, and the gradient of every trained weight."""
    model.zero_grad()
    states = model.base_model(input_ids=ids, use_cache=False, **given)[0]
    (states.double() * torch.linspace(-1, 1, states.numel(), dtype=torch.float64).view_as(states)).sum().backward()
    return [states.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def compared(plain: Any, tolerance: float, own: Any = None, **given: Any) -> dict[str, int]:
    """The parts that were fused, after outputs and gradients of both were compared. own: the same model once more."""
    own = own or deepcopy(plain)
    fuse(own)
    ids = tiny.ids(3, 9) % plain.config.get_text_config().vocab_size
    apart = relative_differences(states_and_gradients(plain, ids, **given), states_and_gradients(own, ids, **given))
    assert max(apart) < tolerance
    return fused_parts(own)


def relative_differences(expected: list[torch.Tensor], found: list[torch.Tensor]) -> list[float]:
    """Of each tensor, the largest difference over the largest value."""
    return [
        ((one.float() - other.float()).abs().max() / one.float().abs().max().clamp_min(1e-6)).item()
        for one, other in zip(expected, found, strict=True)
    ]


def small(kind: str, folder: Path) -> Any:
    """A tiny model of this kind; None where transformers cannot make one so."""
    if not written(kind, folder):
        return None
    try:
        architecture = AutoConfig.from_pretrained(folder)
        if models.architectures.on_meta(architecture, "AutoModelForCausalLM").num_parameters() > MOST_PARAMETERS:
            return None
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(architecture, dtype=torch.float32).eval()
        model.base_model(input_ids=torch.ones(1, 3, dtype=torch.long), use_cache=False)
    except Exception:  # what it lacks here is not this test's matter
        return None
    for parameter in model.parameters():  # norms of ones would hide a weight that is left out
        if parameter.ndim == 1:
            parameter.data.uniform_(0.5, 1.5)
    return in_double_precision(model)


def in_double_precision(model: Any) -> Any:
    """So that what is not rounding shows; models that mix precisions stay as they are."""
    try:
        model.double().base_model(input_ids=torch.ones(1, 3, dtype=torch.long), use_cache=False)
    except RuntimeError:
        model.float()
    return model


def tolerance(model: Any) -> float:
    return 1e-4 if model.dtype == torch.float64 else 1e-3


@pytest.mark.parametrize("kind", SAMPLE)
def test_the_same_as_plain(kind: str, tmp_path: Path) -> None:
    model = small(kind, tmp_path)
    compared(model, tolerance(model))


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) & set(CONFIG_MAPPING)))
def test_the_same_as_plain_everywhere(kind: str, tmp_path: Path) -> None:
    model = small(kind, tmp_path)
    if model is None:
        pytest.skip("not made from a small configuration")
    compared(model, tolerance(model), small(kind, tmp_path))


def test_what_is_fused() -> None:
    model = tiny.llama()
    fuse(model)
    layers = model.config.num_hidden_layers
    assert fused_parts(model) == {"LlamaRMSNorm": 2 * layers + 1, "LlamaAttention": layers}
    assert fused_parts(tiny.llama()) == {}
    before = {id(module): vars(module).get("forward") for module in model.modules()}
    fuse(model)
    assert {id(module): vars(module).get("forward") for module in model.modules()} == before


def test_packed_positions() -> None:
    places = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1], [0, 1, 0, 1, 2, 3, 4, 5, 6], list(range(9))])
    assert compared(tiny.llama(), 1e-4, position_ids=places)


def test_bfloat16() -> None:
    """No further from float32 than plain bfloat16 is; how far that is depends on the processor."""
    exact, plain, own = tiny.llama(), tiny.llama().bfloat16(), tiny.llama().bfloat16()
    fuse(own)
    expected, by_plain, by_own = (states_and_gradients(model, tiny.ids(3, 9)) for model in (exact, plain, own))
    assert fused_parts(own)
    assert mean(relative_differences(expected, by_own)) < 1.5 * mean(relative_differences(expected, by_plain))


def test_frozen_weights_get_no_gradient() -> None:
    model = tiny.llama()
    model.requires_grad_(False)
    model.get_input_embeddings().weight.requires_grad_(True)
    assert compared(model, 1e-4)


def test_turning_back_is_the_adjoint() -> None:
    """Also where the two halves of the angles differ."""
    q, k = torch.randn(2, 4, 5, 6, dtype=torch.float64, requires_grad=True), torch.randn(2, 1, 5, 6, dtype=torch.float64)
    cos, sin = torch.randn(2, 5, 6, dtype=torch.float64), torch.randn(2, 5, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda q, k: rotary(q, k, cos, sin), (q, k.requires_grad_()))


def test_recomputed_layers() -> None:
    model, plain = tiny.llama().train(), tiny.llama().train()
    fuse(model)
    model.activation_checkpointing_enable()
    apart = relative_differences(states_and_gradients(plain, tiny.ids()), states_and_gradients(model, tiny.ids()))
    assert max(apart) < 1e-5


def test_only_the_same_statements_are_known() -> None:
    class Norm(nn.Module):
        def forward(self, hidden_states: Any) -> Any:
            return hidden_states

    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.mistral.modeling_mistral import MistralRMSNorm

    assert same_code(MistralRMSNorm.forward, LlamaRMSNorm.forward)
    assert not same_code(Norm.forward, LlamaRMSNorm.forward)
    assert not same_code(print, LlamaRMSNorm.forward)


def test_keys_that_need_no_gradient_get_none() -> None:
    """Else a rehearsal would book the product that makes it."""
    q, k = torch.randn(1, 2, 3, 4, requires_grad=True), torch.randn(1, 2, 3, 4)
    turned = rotary(q, k, torch.randn(1, 3, 4), torch.randn(1, 3, 4))
    assert [each.requires_grad for each in turned] == [True, False]
