"""Training some or all of the base's own weights: which ones, what is spent on them, and the base given back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import life
import pytest
import tiny
import torch
from safetensors.torch import load_file
from test_checkpoint import comparable, in_pieces, weights

from isolora import registry
from isolora.config import RunConfig, parse
from isolora.cost.flops import rehearse
from isolora.errors import ConfigError, DataError
from isolora.ledger import BatchShape
from isolora.methods.selective import SelectiveSettings

torch.set_num_threads(1)
selective, full = registry.load_plug_in("method", "selective"), registry.load_plug_in("method", "full")
WITH_BIASES = ["gpt2", "bert", "bert_classifier", "bloom", "bart", "roberta_classifier", "roberta_questions"]
CHOICES = [
    *((kind, {"name": "selective", "train": "biases"}) for kind in WITH_BIASES),
    *((kind, {"name": "selective", "train": "norms"}) for kind in tiny.ARCHITECTURES),
    *((kind, {"name": "selective", "train": "layers", "layers": "1"}) for kind in tiny.ARCHITECTURES),
    *((kind, {"name": "full"}) for kind in tiny.ARCHITECTURES),
]


def attached_to(model: Any, method: dict[str, Any], heads: bool = False) -> Any:
    own = {key: value for key, value in method.items() if key != "name"}
    plug_in = registry.load_plug_in("method", method["name"])
    return plug_in.attach(model, [plug_in.settings(own)], [0], heads)


def trained(kind: str, **fields: Any) -> list[str]:
    return list(attached_to(tiny.ARCHITECTURES[kind](), {"name": "selective", **fields}).chosen)


@pytest.mark.parametrize(("kind", "method"), CHOICES, ids=str)
def test_the_whole_life(kind: str, method: dict[str, Any], tmp_path: Path) -> None:
    """Starts as the base, learns, steps aside for it, is saved, loaded, merged, and gives it back bit for bit."""
    model = tiny.ARCHITECTURES[kind]()
    bare, before = life.answers(model).detach(), life.state(model)
    attached = attached_to(model, method)
    torch.testing.assert_close(life.answers(model), bare, rtol=0, atol=2e-6)
    losses = life.fit(attached, 30)
    assert losses[-1] < 0.99 * losses[0]
    learnt = life.answers(model).detach()
    with attached.rows(()):
        torch.testing.assert_close(life.answers(model), bare, rtol=0, atol=2e-6)
    assert torch.equal(life.answers(model), learnt)
    attached.save(0, tmp_path)
    assert load_file(str(tmp_path / "adapter_model.safetensors")).keys() == attached.chosen.keys()
    attached.detach()
    assert life.same_state(model, before)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())

    loaded = registry.load_plug_in("method", method["name"]).load(tiny.ARCHITECTURES[kind](), tmp_path)
    assert torch.equal(life.answers(loaded.model), learnt)
    merged = loaded.merge(0)
    torch.testing.assert_close(life.answers(merged), learnt, rtol=0, atol=2e-6)
    assert list(merged.state_dict()) == list(before)


@pytest.mark.parametrize("method", [{"name": "selective", "train": "biases"}, {"name": "full"}], ids=str)
def test_a_new_head_is_kept_with_it(method: dict[str, Any], tmp_path: Path) -> None:
    attached = attached_to(tiny.roberta_classifier(), method, heads=True)
    life.fit(attached, 3)
    learnt = life.answers(attached.model)
    attached.save(0, tmp_path)
    loaded = registry.load_plug_in("method", method["name"]).load(tiny.roberta_classifier(), tmp_path, heads=True)
    assert torch.equal(life.answers(loaded.model), learnt)
    assert torch.equal(life.answers(loaded.merge(0)), learnt)


def test_which_weights() -> None:
    gpt2 = [name for name, _ in tiny.gpt2().named_parameters()]
    assert trained("gpt2", train="biases") == [name for name in gpt2 if name.endswith("bias")]
    norms = trained("llama", train="norms")
    assert norms[:3] == [
        f"model.layers.{name}.weight" for name in ("0.input_layernorm", "0.post_attention_layernorm", "1.input_layernorm")
    ]
    assert norms[-1] == "model.norm.weight"
    assert len(norms) == 5
    assert trained("llama", train="norms", layers="1") == norms[2:4]
    assert {name.split(".")[2] for name in trained("gpt2", train="layers", layers="last 1")} == {"1"}
    assert len(trained("bart", train="layers", layers=0)) == 16 + 26
    assert trained("t5", train=r"decoder\.block\.1\..*EncDec.*\.q\.weight") == [
        "decoder.block.1.layer.1.EncDecAttention.q.weight"
    ]
    assert trained("llama", train="layers", layers="0-1") == trained("llama", train="layers")


def test_full_is_everything_or_all_but_the_embeddings() -> None:
    model = tiny.gpt2()
    everything = sum(parameter.numel() for parameter in model.parameters())
    assert attached_to(tiny.gpt2(), {"name": "full"}).trainable_parameters(0) == everything
    embeddings = (tiny.VOCABULARY + 64) * 16  # GPT-2 ties its head to them
    assert attached_to(tiny.gpt2(), {"name": "full", "embeddings": False}).trainable_parameters(0) == everything - embeddings


TRAINING = {"steps": 30, "batch_tokens": 200, "learning_rate": 1e-2, "warmup_steps": 2, "evaluate_from": 500}


@pytest.mark.parametrize("method", [{"name": "full"}, {"name": "selective", "train": "norms"}], ids=str)
def test_in_the_loop(method: dict[str, Any], tmp_path: Path) -> None:
    """Learns, goes on exactly after a stop, and leaves the base as it was."""
    config = parse(RunConfig, {"method": method, "training": TRAINING})
    expected: list[Any] = []
    model = tiny.llama()
    before = life.state(model)
    whole = tiny.stack([config], expected, model)
    tiny.train(whole, tmp_path / "whole", 1e9)
    assert expected[-1].loss < expected[0].loss - 0.05

    pieces, points = in_pieces(lambda points: tiny.stack([config], points), tmp_path / "pieces", (7, None), 0)
    assert comparable(points) == comparable(expected)
    assert all(torch.equal(one, other) for one, other in zip(weights(pieces), weights(whole), strict=True))
    whole.attached.detach()
    assert life.same_state(model, before)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom", "mistral", "mixtral"])
@pytest.mark.parametrize(
    "method",
    [
        {"name": "full"},
        {"name": "full", "embeddings": False},
        {"name": "selective", "train": "norms"},
        {"name": "selective", "train": "layers", "layers": "1"},
    ],
    ids=str,
)
def test_priced_as_torch_counts(kind: str, method: dict[str, Any], tmp_path: Path) -> None:
    model = tiny.ARCHITECTURES[kind]()
    config = life.a_run(tmp_path, model, method)
    found = rehearse(config).flops(BatchShape(2, 13, 20)).total
    assert found == pytest.approx(life.counted_flops(config, model, 2, 13, 20), rel=1e-9)


def test_full_spends_twice_the_forward_on_the_backward(tmp_path: Path) -> None:
    """But for attention, whose two products have four gradients all the same, and the inputs of the first layer."""
    flops = rehearse(life.a_run(tmp_path, tiny.llama(), {"name": "full"})).flops(BatchShape(2, 13, 20))
    by_group = flops.by_group()
    for group in ("attention projections", "feed-forward"):
        spent = by_group[group]
        assert spent["backward_weights"] == spent["backward_inputs"] == spent["forward"], group
    assert "adapter" not in by_group


def test_biases_cost_no_gradient_to_a_matrix_nor_below_the_first_of_them(tmp_path: Path) -> None:
    shape = BatchShape(2, 13, 20)
    biases = rehearse(life.a_run(tmp_path, tiny.gpt2(), {"name": "selective", "train": "biases"})).flops(shape)
    assert biases.backward_weights == 0
    last = {"name": "selective", "train": "biases", "layers": "1"}
    upper = rehearse(life.a_run(tmp_path, tiny.gpt2(), last)).flops(shape)
    one = {"name": "selective", "train": r"transformer\.h\.1\.mlp\.c_proj\.bias"}
    nothing_below = rehearse(life.a_run(tmp_path, tiny.gpt2(), one)).flops(shape)
    head = 2 * 20 * 16 * tiny.VOCABULARY
    assert nothing_below.backward_inputs == pytest.approx(head)  # logits alone: the bias is added behind the last product
    assert upper.backward_inputs - head == pytest.approx((biases.backward_inputs - head) / 2)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"train": "biases"}, r"method\.train: nothing matches 'biases' .*q_proj\.weight"),
        ({"train": "q_prj"}, "nothing matches 'q_prj'"),
        ({"train": "q_proj("}, "no valid pattern"),
        ({"train": "layers", "layers": "1-2"}, r"method\.layers: '1-2' names no layers of model\.layers \(valid: A-B within 0-1"),
        ({"train": "layers", "layers": "last 3"}, "'last 3' names no layers"),
        ({"train": "layers", "layers": "last 0"}, "'last 0' names no layers"),
        ({"train": "layers", "layers": "upper"}, "'upper' names no layers"),
    ],
)
def test_wrong_choices_are_one_line(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        selective.attach(tiny.llama(), [SelectiveSettings(**fields)], [0])
    assert "\n" not in str(caught.value)


def test_anothers_file_is_refused(tmp_path: Path) -> None:
    attached_to(tiny.llama(), {"name": "full"}).save(0, tmp_path)
    with pytest.raises(DataError, match="isolora_type is 'full', expected 'selective'"):
        selective.load(tiny.llama(), tmp_path)
    with pytest.raises(DataError, match=r"model\.embed_tokens\.weight is \(61, 16\), the base needs \(61, 32\)"):
        full.load(tiny.llama(hidden_size=32), tmp_path)
