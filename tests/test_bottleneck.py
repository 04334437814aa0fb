"""Bottleneck adapters on every architecture: where they stand, what they start as, what they leave behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import life
import pytest
import tiny
import torch
from test_checkpoint import comparable, in_pieces, weights
from transformers import MambaConfig, MambaForCausalLM

from isolora import registry
from isolora.config import RunConfig, parse
from isolora.cost.flops import rehearse
from isolora.errors import ConfigError, DataError
from isolora.ledger import BatchShape
from isolora.methods.bottleneck import BottleneckSettings, adapted_modules

torch.set_num_threads(1)
bottleneck = registry.load_plug_in("method", "bottleneck")
PLACES = {
    "llama": ["self_attn.o_proj", "mlp.down_proj"],
    "mistral": ["self_attn.o_proj", "mlp.down_proj"],
    "mixtral": ["self_attn.o_proj", "mlp"],
    "gpt2": ["attn.c_proj", "mlp.c_proj"],
    "bloom": ["self_attention.dense", "mlp.dense_4h_to_h"],
    "bert": ["attention.output.dense", "output.dense"],
    "bert_classifier": ["attention.output.dense", "output.dense"],
    "roberta_classifier": ["attention.output.dense", "output.dense"],
    "roberta_questions": ["attention.output.dense", "output.dense"],
    "bart": ["self_attn.out_proj", "fc2", "encoder_attn.out_proj"],
    "t5": ["SelfAttention.o", "DenseReluDense.wo", "EncDecAttention.o"],
}
ATTENTION_OUTPUTS = {"bart": 2 + 2 * 2, "t5": 2 + 2 * 2}
FEED_FORWARD_OUTPUTS = {"bart": 4, "t5": 4}


def filled(kind: str, **fields: Any) -> Any:
    """One member whose weights are all random."""
    attached = bottleneck.attach(tiny.ARCHITECTURES[kind](), [BottleneckSettings(size=4, **fields)], [0])
    for tensor in attached.tensors(0):
        tensor.data.normal_(std=0.2, generator=torch.Generator().manual_seed(3))
    return attached


@pytest.mark.parametrize("kind", tiny.ARCHITECTURES)
def test_stands_behind_the_output_projections(kind: str) -> None:
    model = tiny.ARCHITECTURES[kind]()
    found = adapted_modules(model, "houlsby")
    assert {name for name in found if not name.endswith(tuple(f".{place}" for place in PLACES[kind]))} == set()
    assert set(found.values()) == {16}
    assert len(found) == ATTENTION_OUTPUTS.get(kind, 2) + FEED_FORWARD_OUTPUTS.get(kind, 2)
    assert len(adapted_modules(model, "pfeiffer")) == FEED_FORWARD_OUTPUTS.get(kind, 2)


@pytest.mark.parametrize("kind", tiny.ARCHITECTURES)
def test_starts_as_the_base_learns_and_leaves_it_as_it_was(kind: str) -> None:
    model = tiny.ARCHITECTURES[kind]()
    bare, before = life.frozen_answers(model), life.state(model)
    attached = bottleneck.attach(model, [BottleneckSettings(places="houlsby", size=4)], [0])
    assert torch.equal(life.answers(model), bare)
    losses = life.fit(attached, 30)
    assert losses[-1] < 0.9 * losses[0]
    with attached.rows(()):
        assert torch.equal(life.answers(model), bare)
    attached.detach()
    assert life.same_state(model, before)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kind", tiny.ARCHITECTURES)
@pytest.mark.parametrize("places", ["houlsby", "pfeiffer"])
def test_saved_and_loaded_is_the_same(kind: str, places: str, tmp_path: Path) -> None:
    attached = filled(kind, places=places, activation="gelu")
    attached.save(0, tmp_path)
    loaded = bottleneck.load(tiny.ARCHITECTURES[kind](), tmp_path)
    assert loaded.settings == attached.settings
    assert torch.equal(life.answers(loaded.model), life.answers(attached.model))
    assert not torch.equal(life.answers(loaded.model), life.answers(tiny.ARCHITECTURES[kind]()))


def test_a_new_head_is_kept_with_the_adapter(tmp_path: Path) -> None:
    attached = bottleneck.attach(tiny.roberta_classifier(), [BottleneckSettings(size=4)], [0], heads=True)
    life.fit(attached, 3)
    attached.save(0, tmp_path)
    loaded = bottleneck.load(tiny.roberta_classifier(), tmp_path, heads=True)
    assert torch.equal(life.answers(loaded.model), life.answers(attached.model))


def test_by_hand() -> None:
    """h + up(silu(down(h))) behind the projection."""
    attached = filled("llama", activation="silu")
    layer = attached.layers["model.layers.1.mlp.down_proj"]
    x = torch.randn(2, 3, 40)
    h = x @ layer.base.weight.T
    down, up = layer.members[0].down, layer.members[0].up
    inner = h @ down.weight.T + down.bias
    expected = h + (inner * inner.sigmoid()) @ up.weight.T + up.bias
    torch.testing.assert_close(layer(x), expected)


def test_sizes_and_parameters() -> None:
    attached = bottleneck.attach(tiny.llama(), [BottleneckSettings(reduction=4, places="houlsby")], [0])
    assert attached.trainable_parameters(0) == 4 * (16 * 4 + 4 + 4 * 16 + 16)
    assert BottleneckSettings().inner(768) == 48


@pytest.mark.parametrize("kind", ["llama", "mixtral", "bart"])
def test_each_member_sees_its_own_rows(kind: str) -> None:
    settings = [BottleneckSettings(size=2, places="houlsby"), BottleneckSettings(size=5, places="houlsby", activation="gelu")]
    attached = bottleneck.attach(tiny.ARCHITECTURES[kind](), settings, [0, 1])
    for member in (0, 1):
        for tensor in attached.tensors(member):
            tensor.data.normal_(std=0.2, generator=torch.Generator().manual_seed(member))
    ids = tiny.ids(rows=5)
    with attached.rows([(1, 0, 2), (0, 3, 5)]):
        stacked = life.answers(attached.model, ids)
    for member, span in ((1, slice(0, 2)), (0, slice(3, 5))):
        with attached.rows([(member, 0, -1)]):
            torch.testing.assert_close(stacked[span], life.answers(attached.model, ids[span]), rtol=0, atol=2e-6)
    torch.testing.assert_close(stacked[2:3], life.answers(tiny.ARCHITECTURES[kind](), ids[2:3]), rtol=0, atol=2e-6)


TRAINING = {"steps": 30, "batch_tokens": 200, "learning_rate": 3e-2, "warmup_steps": 2, "evaluate_from": 500}
MEMBERS = [
    parse(RunConfig, {"seed": seed, "method": {"name": "bottleneck", "places": "houlsby", **own}, "training": TRAINING})
    for seed, own in ((1, {"size": 4, "dropout": 0.3}), (2, {"size": 3}))
]


def test_learns_in_the_loop_and_together_as_alone(tmp_path: Path) -> None:
    together: list[Any] = []
    tiny.train(tiny.stack(MEMBERS, together), tmp_path / "together", 1e9)
    for k, config in enumerate(MEMBERS):
        alone: list[Any] = []
        tiny.train(tiny.stack([config], alone), tmp_path / str(k), 1e9)
        mine = [point.loss for point in together if point.run == f"run-{k}"]
        assert mine == pytest.approx([point.loss for point in alone], rel=1e-4)
        assert mine[-1] < mine[0] - 0.05


def test_recomputed_layers_drop_the_same() -> None:
    settings = [BottleneckSettings(size=4, dropout=0.5), BottleneckSettings(size=2)]
    life.recomputes_alike(lambda: bottleneck.attach(tiny.llama(), settings, [0, 1]))


def test_resumes_exactly(tmp_path: Path) -> None:
    expected: list[Any] = []
    whole = tiny.stack(MEMBERS, expected)
    tiny.train(whole, tmp_path / "whole", 1e9)
    pieces, points = in_pieces(lambda points: tiny.stack(MEMBERS, points), tmp_path / "pieces", (7, None), 0)
    assert comparable(points) == comparable(expected)
    assert all(torch.equal(one, other) for one, other in zip(weights(pieces), weights(whole), strict=True))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom", "mistral", "mixtral"])
@pytest.mark.parametrize("places", ["houlsby", "pfeiffer"])
def test_priced_as_torch_counts(kind: str, places: str, tmp_path: Path) -> None:
    model = tiny.ARCHITECTURES[kind]()
    config = life.a_run(tmp_path, model, {"name": "bottleneck", "places": places, "size": 3})
    found = rehearse(config).flops(BatchShape(2, 13, 20)).total
    assert found == pytest.approx(life.counted_flops(config, model, 2, 13, 20), rel=1e-9)


def test_refusals(tmp_path: Path) -> None:
    mamba = MambaForCausalLM(MambaConfig(vocab_size=61, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(ConfigError, match="larger than the model's width, 16"):
        bottleneck.attach(tiny.llama(), [BottleneckSettings(size=17)], [0])
    with pytest.raises(ConfigError, match="same places"):
        bottleneck.attach(tiny.llama(), [BottleneckSettings(), BottleneckSettings(places="houlsby")], [0, 1])
    with pytest.raises(ConfigError, match="MambaForCausalLM has no repeated layers with attention"):
        bottleneck.attach(mamba, [BottleneckSettings()], [0])
    with pytest.raises(ConfigError, match="cannot be merged"):
        filled("llama").merge(0)
    with pytest.raises(DataError, match="no readable adapter_config"):
        bottleneck.load(tiny.llama(), tmp_path)
    filled("llama").save(0, tmp_path)
    with pytest.raises(DataError, match="none of this adapter"):
        bottleneck.load(tiny.gpt2(), tmp_path)
    with pytest.raises(ConfigError, match="places: Input should be 'houlsby' or 'pfeiffer'"):
        parse(RunConfig, {"method": {"name": "bottleneck", "places": "everywhere"}})
