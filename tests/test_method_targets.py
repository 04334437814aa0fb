"""Targets of a method: what `all-linear` means, names that match nothing, and patterns that would never end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from person import one_line
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, Qwen2MoeConfig, Qwen2MoeForCausalLM

from isolora import registry
from isolora.errors import ConfigError, DataError
from isolora.methods import targets
from isolora.methods.targets import SECONDS, expert_counts, is_routing, matching, target_modules

torch.set_num_threads(1)
HANGS = ("(([a-z_.0-9]+)+)+#", "(a|aa|[a-z_.0-9]+)+#", "(.*)*(.*)*(.*)*#", "([a-z]|[a-z_.0-9]*)*#", "(?:(?:\\w+\\.?)+)+!")
ROUTERS = {
    "qwen2_moe": {"shared_expert_gate"},
    "qwen3_next": {"shared_expert_gate"},
    "llama4_text": {"router"},
    "phimoe": {"router"},
    "jetmoe": {"layer"},
    "longcat_flash": {"classifier"},
    "afmoe": {"gate"},
    "mixtral": set(),
    "deepseek_v3": set(),
    "mamba2": {"out_proj"},
}
"""Architecture -> last names of the layers that route, or are read past an adapter; where the set is empty, routing is no linear
layer."""


def on_meta(kind: str) -> Any:
    config = CONFIG_MAPPING[kind]()
    config.num_hidden_layers = 2
    with torch.device("meta"):
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)


@pytest.mark.parametrize("kind", ROUTERS)
def test_all_linear_takes_everything_but_routers_and_heads(kind: str) -> None:
    model = on_meta(kind)
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    left_out = {name.rpartition(".")[2] for name in linear - set(target_modules(model, "all-linear"))}
    assert left_out == ROUTERS[kind] | {"lm_head"}


@pytest.mark.parametrize(
    ("name", "outputs", "routes"),
    [
        ("model.layers.0.mlp.gate_proj", 8, False),
        ("model.layers.0.mlp.gate", 8, True),
        ("model.layers.0.mlp.gate", 64, False),
        ("model.layers.0.mlp.gate.wg", 64, True),
        ("model.layers.0.self_attn.output_gate", 16, False),
        ("model.layers.0.mlp.router.classifier", 12, True),
        ("model.layers.0.anything", 1, True),
    ],
)
def test_what_routes(name: str, outputs: int, routes: bool) -> None:
    assert is_routing(name, nn.Linear(16, outputs), {8}) == routes


def test_numbers_of_experts_are_found_in_every_corner() -> None:
    assert expert_counts({"text_config": {"n_routed_experts": 8}, "num_local_experts": 4, "id2label": {0: "x"}}) == {4, 8}


def test_rank_4_on_a_mixture_with_a_gate_of_one_output() -> None:
    config = Qwen2MoeConfig(vocab_size=tiny.VOCABULARY, num_experts=4, moe_intermediate_size=8, **tiny.LLAMA)
    config.shared_expert_intermediate_size = 8
    attached = registry.load_plug_in("method", "lora").attach(
        tiny.seeded(Qwen2MoeForCausalLM, config), [registry.load_plug_in("method", "lora").settings({"rank": 4})], [0]
    )
    assert not [name for name in attached.layers if "gate" in name.split(".")[-1] and "gate_proj" not in name]


NAMED: dict[str, dict[str, Any]] = {
    "lora": {"targets": ["q_proj", "o_prj"]},
    "qlora": {"targets": ["q_proj", "o_prj"]},
    "adalora": {"targets": ["q_proj", "o_prj"]},
    "peft:LORA": {"target_modules": ["q_proj", "o_prj"]},
    "peft:VERA": {"target_modules": ["q_proj", "o_prj"], "r": 2},
    "peft:IA3": {"target_modules": ["q_proj", "o_prj"], "feedforward_modules": []},
    "peft:LOHA": {"target_modules": ["q_proj", "o_prj"]},
    "peft:LN_TUNING": {"target_modules": ["norm", "input_layernrm"]},
}


@pytest.mark.parametrize(
    ("kind", "rank", "layer", "most", "wider"),
    [
        ("olmo_hybrid", 64, "linear_attn.a_proj", 30, "down_proj,g_proj,gate_proj,k_proj,o_proj,q_proj,up_proj,v_proj"),
        ("mamba", 64, "mixer.dt_proj", 48, "in_proj,x_proj"),
        ("laguna", 64, "self_attn.g_proj", 48, "down_proj,gate_proj,k_proj,o_proj,q_proj,up_proj,v_proj"),
    ],
)
def test_a_rank_beyond_a_narrow_layer_names_the_wider_ones(kind: str, rank: int, layer: str, most: int, wider: str) -> None:
    model, lora = on_meta(kind), registry.load_plug_in("method", "lora")
    with pytest.raises(ConfigError) as caught:
        lora.attach(model, [lora.settings({"rank": rank})], [0], "")
    line = str(caught.value)
    assert line.startswith(f"method.rank: {rank} is larger than layer ")
    assert f"0.{layer} allows (at most {most}); or adapt the wider layers alone: method.targets=[{wider}]" in line
    lora.attach(model, [lora.settings({"rank": rank, "targets": wider.split(",")})], [0], "").detach()


@pytest.mark.parametrize("name", NAMED)
def test_a_name_that_matches_nothing_is_said_beside_ones_that_do(name: str) -> None:
    method = registry.load_plug_in("method", name)
    with pytest.raises(ConfigError, match=r"nothing matches '\w+'; did you mean '(o_proj|input_layernorm)'\?") as caught:
        method.attach(tiny.llama(), [method.settings(NAMED[name])], [0])
    one_line(caught)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"exclude_modules": ["o_prj"]}, "exclude_modules: nothing matches 'o_prj'; did you mean 'o_proj'"),
        ({"target_parameters": ["q_proj.wieght"]}, "target_parameters: nothing matches"),
        ({"rank_pattern": {"q_prj": 2}}, "rank_pattern: nothing matches 'q_prj'; did you mean 'q_proj'"),
        ({"alpha_pattern": {"(a+)+": 2}}, "alpha_pattern: '.*' is no plain name"),
        ({"layers_to_transform": [0], "layers_pattern": "(a+)+"}, "layers_pattern: '.*' is no plain name"),
    ],
)
def test_every_other_place_for_names(fields: dict[str, Any], line: str) -> None:
    method = registry.load_plug_in("method", "peft:LORA")
    with pytest.raises(ConfigError, match=line) as caught:
        method.attach(tiny.llama(), [method.settings({"target_modules": ["q_proj"], **fields})], [0])
    one_line(caught)


def test_a_target_that_is_the_new_head_alone_is_said() -> None:
    method = registry.load_plug_in("method", "lora")
    with pytest.raises(ConfigError, match=r"nothing matches 'classifier'.*a new head is trained whole"):
        method.attach(tiny.bert_classifier(), [method.settings({"targets": ["query", "classifier"]})], [0], heads=True)


@pytest.mark.parametrize("pattern", HANGS)
def test_a_pattern_that_never_ends_is_ended(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if pattern != HANGS[0]:
        monkeypatch.setattr(targets, "SECONDS", 0.4)
    names = [f"model.layers.{number}.self_attn.q_proj" for number in range(80)]
    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"takes more than \d seconds to match"):
        matching(pattern, names, "method.targets")
    assert time.monotonic() - started < SECONDS + 1


@pytest.mark.parametrize("pattern", ["(", "a{4294967296}", "(" * 300 + ")" * 300, "x" * 20_000, "(?P<a>b)(?P<a>c)"])
def test_what_is_no_pattern_is_one_line(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"method\.targets: (nothing|'|a pattern of)") as caught:
        target_modules(tiny.llama(), pattern)
    assert len(one_line(caught)) < 500


@pytest.mark.parametrize("name", ["lora", "adalora", "peft:VERA", "selective"])
def test_a_pattern_from_a_file_is_bounded_for_every_method(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file says another pattern than the one trained with."""
    monkeypatch.setattr(targets, "SECONDS", 0.4)
    own = {"lora": {"targets": ["q_proj"]}, "adalora": {"targets": ["q_proj"]}, "selective": {"train": "norms"}}
    method = registry.load_plug_in("method", name)
    fields = own.get(name, {"target_modules": ["q_proj"], "r": 2})
    method.attach(tiny.llama(), [method.settings(fields)], [0]).save(0, tmp_path)
    path = tmp_path / "adapter_config.json"
    text = path.read_text()
    for old in ('["q_proj"]', '[\n  "q_proj"\n ]', '[\n    "q_proj"\n  ]', '"norms"'):
        text = text.replace(old, f'"{HANGS[0]}"')
    assert HANGS[0] in text
    path.write_text(text)
    with pytest.raises((ConfigError, DataError), match="takes more than"):
        method.load(tiny.llama(), tmp_path)
