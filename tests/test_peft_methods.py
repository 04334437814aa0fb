"""Methods that stand on PEFT: a whole life on every architecture, or one line that says why not."""

from __future__ import annotations

import json
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import life
import pytest
import tiny
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from isolora import registry
from isolora.cost.flops import rehearse
from isolora.errors import ConfigError, DataError
from isolora.ledger import BatchShape
from isolora.methods.own_format import CONFIG, WEIGHTS
from isolora.methods.trained_heads import head_names

torch.set_num_threads(1)
# PEFT asks transformers for an attribute that will be renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
METHODS: dict[str, dict[str, Any]] = {
    "adalora": {"init_rank": 4, "target_rank": 2},
    "llama-adapter": {"virtual_tokens": 3},
    "p-tuning": {"virtual_tokens": 3},
    "prefix": {"virtual_tokens": 3},
    "prompt": {"virtual_tokens": 3},
}
START_AT_THE_BASE = ("adalora", "llama-adapter")
NO_LLAMA = ("bert", "bert_classifier", "mixtral", "bloom", "bart", "t5", "roberta_classifier", "roberta_questions")
UNDEFINED = {
    **{("llama-adapter", kind): "unknown model type" for kind in NO_LLAMA},
    **{(method, "bert"): "is not defined for BertForMaskedLM" for method in ("p-tuning", "prefix", "prompt")},
}
CELLS = list(product(METHODS, tiny.ARCHITECTURES))


def attached(method: str, model: Any, seed: int = 5, **changes: Any) -> Any:
    found = registry.load_plug_in("method", method)
    return found.attach(model, [found.settings({**METHODS[method], **changes})], [seed], new_head(model))


def new_head(model: Any) -> bool:
    return bool(head_names(model)) and model.get_output_embeddings() is None


def loaded(method: str, kind: str, folder: Path) -> Any:
    model = tiny.ARCHITECTURES[kind]()
    return registry.load_plug_in("method", method).load(model, folder, new_head(model))


def loaded_by_peft(kind: str, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PEFT thinks of pruned ranks
        return PeftModel.from_pretrained(tiny.ARCHITECTURES[kind](), str(folder)).eval()


@pytest.mark.parametrize(("method", "kind"), [cell for cell in CELLS if cell not in UNDEFINED])
def test_a_whole_life(method: str, kind: str, tmp_path: Path) -> None:
    model = tiny.ARCHITECTURES[kind]()
    before, bare = life.state(model), life.frozen_answers(model)
    adapter = attached(method, model)
    start = life.answers(adapter.model).detach()[:, -bare.shape[1] :]
    if method in START_AT_THE_BASE and not new_head(model):
        torch.testing.assert_close(start, bare, rtol=0, atol=1e-6)
    else:
        assert float((start - bare).abs().max()) > 1e-3, "virtual tokens are looked at"
    losses = life.fit(adapter, 30)
    assert losses[-1] < losses[0]
    with adapter.rows(()):
        torch.testing.assert_close(life.answers(adapter.model).detach(), bare, rtol=0, atol=1e-6)
    after = life.answers(adapter.model).detach()
    adapter.save(0, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG, WEIGHTS]
    ours = loaded(method, kind, tmp_path)
    torch.testing.assert_close(life.answers(ours.model).detach(), after, rtol=0, atol=1e-5)
    torch.testing.assert_close(life.answers(loaded_by_peft(kind, tmp_path)).detach(), after, rtol=0, atol=1e-5)
    if registry.load_plug_in("method", method).mergeable:
        torch.testing.assert_close(life.answers(ours.merge(0)).detach(), after, rtol=0, atol=1e-5)
    else:
        with pytest.raises(ConfigError, match="cannot be merged"):
            ours.merge(0)
    adapter.detach()
    assert life.same_state(model, before)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(life.frozen_answers(model), bare)


@pytest.mark.parametrize(("method", "kind"), UNDEFINED)
def test_what_is_not_defined_is_one_line_and_leaves_the_model_alone(method: str, kind: str) -> None:
    model = tiny.ARCHITECTURES[kind]()
    before = life.state(model)
    with pytest.raises(ConfigError, match=UNDEFINED[method, kind]) as caught:
        attached(method, model)
    assert "\n" not in str(caught.value)
    assert life.same_state(model, before)


@pytest.mark.parametrize("method", METHODS)
def test_the_start_depends_on_the_seed_alone(method: str) -> None:
    one, other = (attached(method, tiny.gpt2(), seed) for seed in (3, 4))
    torch.manual_seed(99)
    again = attached(method, tiny.gpt2(), 3)
    assert all(torch.equal(a, b) for a, b in zip(one.tensors(0), again.tensors(0), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.tensors(0), other.tensors(0), strict=True))


@pytest.mark.parametrize("method", ["adalora", "prompt"])
def test_new_heads_start_as_every_other_methods_do(method: str) -> None:
    lora = registry.load_plug_in("method", "lora").attach(
        tiny.roberta_classifier(), [registry.load_plug_in("method", "lora").settings({"rank": 2})], [5], True
    )
    own = dict(attached(method, tiny.roberta_classifier()).base.named_parameters())
    for name, parameter in lora.heads.named(0):
        assert torch.equal(own[name.replace("classifier.", "classifier.modules_to_save.default.")], parameter)


@pytest.mark.parametrize("method", ["adalora", "prefix"])
def test_the_bases_own_dropout_stays_off(method: str) -> None:
    adapter = attached(method, tiny.roberta_classifier())
    with adapter.rows([(0, 0, -1)]):
        still = life.answers(adapter.model)
    adapter.train(True)
    with adapter.rows([(0, 0, -1)]):
        assert torch.equal(life.answers(adapter.model), still)


def test_dropout_draws_from_the_members_own_seed() -> None:
    passes = []
    for _ in range(2):
        adapter = attached("adalora", tiny.llama(), dropout=0.5)
        for tensor in adapter.tensors(0):
            tensor.data.normal_(std=0.2, generator=torch.Generator().manual_seed(1))
        adapter.train(True)
        torch.rand(3)  # whatever else draws
        for _ in range(2):
            with adapter.rows([(0, 0, -1)]):
                passes.append(life.answers(adapter.model).detach())
    assert torch.equal(passes[0], passes[2])
    assert torch.equal(passes[1], passes[3])
    assert not torch.equal(passes[0], passes[1])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("method", METHODS)
def test_rehearsed_without_weights(method: str, kind: str, tmp_path: Path) -> None:
    config = life.a_run(tmp_path, tiny.ARCHITECTURES[kind](), {"name": method, **METHODS[method]})
    ledger = rehearse(config)
    for rows, length, labels in ((3, 11, 20), (2, 29, 57), (5, 7, 35)):
        real = life.counted_flops(config, tiny.ARCHITECTURES[kind](), rows, length, labels)
        assert ledger.flops(BatchShape(rows, length, labels)).total == pytest.approx(real, rel=1e-9)
    assert ledger.trainable_parameters == attached(method, tiny.ARCHITECTURES[kind]()).trainable_parameters(0)


def test_a_broken_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no readable adapter_config"):
        loaded("prompt", "llama", tmp_path)
    attached("prompt", tiny.llama()).save(0, tmp_path)
    with pytest.raises(DataError, match="peft_type is 'PROMPT_TUNING', expected 'PREFIX_TUNING'"):
        loaded("prefix", "llama", tmp_path)
    tensors = load_file(str(tmp_path / WEIGHTS))
    for line, changed in {
        "prompt_embeddings is missing": {"z": torch.zeros(3)},
        "the base needs": {"prompt_embeddings": torch.zeros(3, 3)},
        "../x is none": {**tensors, "../x": torch.zeros(3)},
    }.items():
        save_file(changed, str(tmp_path / WEIGHTS))
        with pytest.raises(DataError, match=line):
            loaded("prompt", "llama", tmp_path)


@pytest.mark.parametrize("change", [{"bias": "all"}, {"use_dora": "x"}, {"layers_to_transform": {"a": 1}}], ids=str)
def test_a_file_that_asks_for_more_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    attached("adalora", tiny.llama()).save(0, tmp_path)
    path = tmp_path / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError) as caught:
        loaded("adalora", "llama", tmp_path)
    assert "\n" not in str(caught.value)
