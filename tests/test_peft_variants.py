"""`peft:NAME`: every other type of PEFT trains, is kept, loads and merges; what cannot is said in one line."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import life
import pytest
import tiny
import torch
from peft import PeftModel
from test_checkpoint import in_pieces, weights

from isolora import registry
from isolora.cost.flops import rehearse
from isolora.errors import ConfigError, DataError
from isolora.ledger import BatchShape
from isolora.methods.peft.pass_through import OWN, REFUSED, UNMERGED, types

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks"),
]
FIELDS: dict[str, dict[str, Any]] = {
    "ADAMSS": {"r": 6, "num_subspaces": 2},
    "C3A": {"block_size": 8},
    "FOURIERFT": {"n_frequency": 20},
    "FROD": {"progressbar": False},
    "GRALORA": {"r": 4},
    "HIRA": {"r": 4},
    "LILY": {"r": 4},
    "MISS": {"r": 4},
    "OFT": {"oft_block_size": 4},
    "PEANUT": {"r": 4},
    "PSOFT": {"r": 4},
    "PVERA": {"r": 4},
    "RANDLORA": {"r": 4},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 2},
    "TINYLORA": {"u": 4},
    "TRAINABLE_TOKENS": {"token_indices": tiny.ids()[0].unique().tolist()},
    "UNILORA": {"theta_d_length": 16},
    "VBLORA": {"num_vectors": 8, "vector_length": 4},
    "VERA": {"r": 4},
    "WAVEFT": {"n_frequency": 20},
}
"""Sizes that fit a tiny model."""
START_ELSEWHERE = {"C3A", "FOURIERFT", "UNILORA", "VBLORA"}
DRAW_IN_TRAINING = {"PVERA"}


def attached(peft_type: str, model: Any, heads: bool = False, **fields: Any) -> Any:
    method = registry.load_plug_in("method", f"peft:{peft_type}")
    return method.attach(model, [method.settings({**FIELDS.get(peft_type, {}), **fields})], [5], heads)


@pytest.mark.parametrize("peft_type", types())
def test_a_whole_life(peft_type: str, tmp_path: Path) -> None:
    model = tiny.llama()
    before, bare = life.state(model), life.frozen_answers(model)
    adapter = attached(peft_type, model)
    moved = float((life.answers(adapter.model).detach() - bare).abs().max())
    assert (moved > 1e-5) == (peft_type in START_ELSEWHERE)
    losses = life.fit(adapter, 30)
    assert min(losses[-3:]) < losses[0] or peft_type in DRAW_IN_TRAINING
    assert all(tensor.grad is not None for tensor in adapter.tensors(0)), "nothing is counted that is never trained"
    after = life.answers(adapter.model).detach()
    with adapter.rows(()):
        torch.testing.assert_close(life.answers(adapter.model).detach(), bare, rtol=0, atol=1e-6)
    adapter.save(0, tmp_path)
    method = registry.load_plug_in("method", f"peft:{peft_type}")
    ours = method.load(tiny.llama(), tmp_path)
    torch.testing.assert_close(life.answers(ours.model).detach(), after, rtol=0, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice
        theirs = PeftModel.from_pretrained(tiny.llama(), str(tmp_path)).eval()
    torch.testing.assert_close(life.answers(theirs).detach(), after, rtol=0, atol=1e-5)
    if method.mergeable and peft_type != "BEFT":  # whose biases these layers have no place for
        torch.testing.assert_close(life.answers(ours.merge(0)).detach(), after, rtol=1e-5, atol=1e-5)
    else:
        with pytest.raises(ConfigError, match="cannot be merged"):
            ours.merge(0)
    adapter.detach()
    assert life.same_state(model, before)
    assert torch.equal(life.frozen_answers(model), bare)


@pytest.mark.parametrize("peft_type", ["IA3", "OSF"])
def test_defaults_that_name_layers_of_older_versions_load(peft_type: str, tmp_path: Path) -> None:
    """PEFT adapts `w2` of a Mixtral by default, and transformers 5 has none: what was saved could not be loaded."""
    adapter = registry.load_plug_in("method", f"peft:{peft_type}")
    trained = adapter.attach(tiny.mixtral(), [adapter.Settings()], [0])
    life.fit(trained, 3)
    after = life.answers(trained.model).detach()
    trained.save(0, tmp_path)
    torch.testing.assert_close(life.answers(adapter.load(tiny.mixtral(), tmp_path).model).detach(), after, rtol=0, atol=1e-5)


@pytest.mark.parametrize("peft_type", sorted({"IA3", "LOHA", "OFT", "VERA", "BOFT", "LORA"} - UNMERGED))
def test_new_heads_are_kept_and_merged(peft_type: str, tmp_path: Path) -> None:
    """RoBERTa's head has two layers, over which PEFT's own merging stumbles."""
    adapter = attached(peft_type, tiny.roberta_classifier(), heads=True)
    life.fit(adapter, 5)
    after = life.answers(adapter.model).detach()
    adapter.save(0, tmp_path)
    ours = registry.load_plug_in("method", f"peft:{peft_type}").load(tiny.roberta_classifier(), tmp_path, True)
    torch.testing.assert_close(life.answers(ours.merge(0)).detach(), after, rtol=0, atol=1e-5)
    assert list(ours.base.state_dict()) == list(tiny.roberta_classifier().state_dict())


@pytest.mark.parametrize("peft_type", ["ADAMSS", "FROD", "LOHA", "SHIRA", "TINYLORA", "VBLORA", "VERA", "WAVEFT"])
def test_rehearsed_with_weights_where_they_are_looked_at(peft_type: str, tmp_path: Path) -> None:
    config = life.a_run(tmp_path, tiny.llama(), {"name": f"peft:{peft_type}", **FIELDS.get(peft_type, {})})
    ledger = rehearse(config)
    for rows, length, labels in ((3, 11, 20), (2, 29, 57), (5, 7, 35)):
        counted = life.counted_flops(config, tiny.llama(), rows, length, labels)
        assert ledger.flops(BatchShape(rows, length, labels)).total == pytest.approx(counted, rel=1e-9)
    assert ledger.trainable_parameters == attached(peft_type, tiny.llama()).trainable_parameters(0)


@pytest.mark.parametrize("peft_type", ["VERA", "VBLORA", "PVERA"])
def test_a_resumed_run_is_the_uninterrupted_one(peft_type: str, tmp_path: Path) -> None:
    dropout = {f"{peft_type.lower()}_dropout": 0.3}
    config = tiny.run(method={"name": f"peft:{peft_type}", **FIELDS[peft_type], **dropout}, steps=8)
    whole = tiny.stack([config])
    tiny.train(whole, tmp_path / "whole", 1e9)
    resumed, _ = in_pieces(lambda points: tiny.stack([config], points), tmp_path / "pieces", (4, None), 0)
    assert all(torch.equal(one, other) for one, other in zip(weights(resumed), weights(whole), strict=True))


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("peft", r"method.name: peft wants the name of a type, such as peft:VERA \(valid: .*IA3"),
        ("peft:VERRA", r"unknown PEFT type 'VERRA'; did you mean .*VERA"),
        *((f"peft:{name}", f"is a method by itself here: {own}") for name, own in OWN.items()),
        *((f"peft:{name}", "cannot be trained here: ") for name in REFUSED),
        ({"name": "peft:VERA", "rank": 4}, "unknown key 'rank'"),
        ({"name": "peft:VERA", "r": "many"}, r"method.r: Input should be a valid integer"),
        ({"name": "peft:ROAD", "group_size": 7}, "peft:ROAD: The group_size must be divisible by 2"),
        ({"name": "peft:LORA", "bias": "all"}, "unknown key 'bias'"),
        ({"name": "peft:LORA", "init_lora_weights": "pissa"}, "'pissa' changes the base"),
        ("peft:TRAINABLE_TOKENS", "method.token_indices: Field required"),
    ],
    ids=str,
)
def test_bad_names_and_fields_are_one_line(method: Any, line: str) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        tiny.run(method=method if isinstance(method, dict) else {"name": method})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("peft_type", "fields", "line"),
    [
        ("VBLORA", {"vector_length": 256}, "`in_features` 16 must be divisible by `vector_length` 256"),
        ("ROAD", {"group_size": 64}, "must be divisible by group_size"),
        ("SHIRA", {"r": 32}, "more shira params than the total"),
        ("C3A", {"block_size": 3}, "block size should be a factor of the input size"),
        ("WAVEFT", {"n_frequency": 2592}, "less than or equal to the product"),
        ("BOFT", {"boft_block_size": 3}, "must be divisible by boft_block_size"),
        ("VERA", {"target_modules": ["q_prj"]}, "nothing matches 'q_prj'"),
    ],
)
def test_sizes_that_do_not_fit_leave_the_model_alone(peft_type: str, fields: dict[str, Any], line: str) -> None:
    model = tiny.llama()
    before = life.state(model)
    with pytest.raises(ConfigError, match=line) as caught:
        attached(peft_type, model, **fields)
    assert "\n" not in str(caught.value)
    assert life.same_state(model, before)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_layers_that_a_type_does_not_know_are_named() -> None:
    with pytest.raises(ConfigError, match="peft:OFT cannot be attached to GPT2LMHeadModel: Target module Conv1D"):
        attached("OFT", tiny.gpt2())
    with pytest.raises(ConfigError, match=r"^method\.target_modules: PEFT has no default for bert; give all-linear"):
        attached("LN_TUNING", tiny.bert())
    with pytest.raises(ConfigError, match="keeps no new head"):
        attached("TRAINABLE_TOKENS", tiny.bert_classifier(), heads=True)


def test_all_linear_leaves_heads_out() -> None:
    adapter = attached("VERA", tiny.bert_classifier(), heads=True, target_modules="all-linear")
    assert not any("classifier" in name and "vera" in name for name, _ in adapter.base.named_parameters())
    assert len(adapter.config.target_modules) == 4


def test_names_are_understood_in_small_letters_and_once() -> None:
    assert registry.load_plug_in("method", "peft:ln-tuning").name == "peft:LN_TUNING"
    assert registry.names("method").count("peft") == 1


@pytest.mark.parametrize("change", [{"bias": "all"}, {"init_lora_weights": "pissa"}, {"r": None}], ids=str)
def test_a_stranger_file_that_would_change_the_base_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    attached("LORA", tiny.llama()).save(0, tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError) as caught:
        registry.load_plug_in("method", "peft:LORA").load(tiny.llama(), tmp_path)
    assert "\n" not in str(caught.value)
