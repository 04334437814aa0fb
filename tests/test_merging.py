"""A merged model, loaded by plain transformers, is the adapted one, whatever shares its weights with what was adapted."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import life
import pytest
import tiny
import torch
from test_peft_variants import FIELDS
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from isolora import registry
from isolora.errors import ConfigError
from isolora.methods.merging import untie
from isolora.methods.new_tokens import NewTokens
from isolora.methods.peft.pass_through import types

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks"),
]


def qwen2() -> Any:
    config = Qwen2Config(vocab_size=tiny.VOCABULARY, initializer_range=0.2, tie_word_embeddings=True, **tiny.LLAMA)
    return tiny.seeded(Qwen2ForCausalLM, config)


TIED = {"llama": lambda: tiny.llama(tie_word_embeddings=True), "qwen2": qwen2, "gpt2": tiny.gpt2}
EMBEDDING = {"llama": "embed_tokens", "qwen2": "embed_tokens", "gpt2": "wte"}
OTHER_PARTS = {"LN_TUNING", "TRAINABLE_TOKENS", "BEFT"}
"""Types that adapt norms, entries or biases, never a tied matrix that is a layer's."""


def moved(attached: Any, asked: Callable[[Any], torch.Tensor] = life.logits) -> torch.Tensor:
    """Logits after weights were drawn that matter."""
    generator = torch.Generator().manual_seed(3)
    for tensor in attached.tensors(0):
        tensor.data.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    attached.train(False)
    return asked(attached.model)


def reloaded(model: Any, folder: Path) -> torch.Tensor:
    model.save_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return life.logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


@pytest.mark.parametrize("kind", TIED)
@pytest.mark.parametrize(("name", "chosen"), [("lora", "head"), ("lora", "embedding"), ("lora", "both"), ("adalora", "head")])
def test_tied_matrices(name: str, chosen: str, kind: str, tmp_path: Path) -> None:
    targets = {"head": ["lm_head"], "embedding": [EMBEDDING[kind]], "both": ["lm_head", EMBEDDING[kind]]}[chosen]
    method, model = registry.load_plug_in("method", name), TIED[kind]()
    bare = life.logits(model)
    attached = method.attach(model, [method.settings({"targets": targets})], [0])
    before = moved(attached)
    assert (before - bare).abs().max() > 0.1, "an adapter without an effect would prove nothing"
    torch.testing.assert_close(reloaded(attached.merge(0), tmp_path), before, rtol=0, atol=1e-5)


def tied_head_with(peft_type: str) -> Any:
    """One of PEFT's types on a tied output head; None where it is not defined for that layer."""
    method = registry.load_plug_in("method", f"peft:{peft_type}")
    wanted = {"target_modules": ["lm_head"], **({"feedforward_modules": []} if peft_type == "IA3" else {})}
    fields = {name: value for name, value in wanted.items() if name in method.Settings.model_fields}
    model = tiny.seeded(LlamaForCausalLM, LlamaConfig(vocab_size=64, tie_word_embeddings=True, **tiny.LLAMA))
    try:
        return method.attach(model, [method.settings({**FIELDS.get(peft_type, {}), **fields})], [0])
    except ConfigError:
        return None


@pytest.mark.parametrize("peft_type", sorted(set(types()) - OTHER_PARTS))
def test_a_tied_head_under_every_type_of_peft(peft_type: str, tmp_path: Path) -> None:
    attached = tied_head_with(peft_type)
    if attached is None:
        pytest.skip("not defined for an output head")
    before = moved(attached)
    try:
        merged = attached.merge(0)
    except ConfigError:
        return
    torch.testing.assert_close(reloaded(merged, tmp_path), before, rtol=0, atol=1e-4)


@pytest.mark.parametrize("targets", [["embed_tokens"], ["lm_head"], ["q_proj"]])
def test_new_tokens_on_a_tied_base(targets: list[str], tmp_path: Path) -> None:
    """An untied head needs the new rows as well: they were left as drawn."""
    method = registry.load_plug_in("method", "lora")
    attached = method.attach(tiny.llama(tie_word_embeddings=True), [method.settings({"rank": 2, "targets": targets})], [0])
    longer = NewTokens(attached, tiny.VOCABULARY, 2, [0])
    before = moved(longer)
    torch.testing.assert_close(reloaded(longer.merge(0), tmp_path), before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_encoder_decoders_share_one_matrix_three_times(kind: str) -> None:
    model = tiny.ARCHITECTURES[kind]()
    untie(model, [model.get_output_embeddings()])
    storages = [weight.data_ptr() for _, weight in model.named_parameters(remove_duplicate=False)]
    assert len(storages) == len(set(storages))
    assert model.config.tie_word_embeddings is False


@pytest.mark.parametrize("name", ["lora", "peft:LORA"])
def test_a_model_that_computes_by_the_switch_keeps_it(name: str, tmp_path: Path) -> None:
    """UMT5 scales what reaches a tied head: untied, the merged model's logits differed by 14, and an export was refused."""
    config = UMT5Config(vocab_size=tiny.VOCABULARY, **tiny.T5)
    method, model = registry.load_plug_in("method", name), tiny.seeded(UMT5ForConditionalGeneration, config)
    bare = answered(model)
    attached = method.attach(model, [method.settings({"targets" if name == "lora" else "target_modules": ["lm_head"]})], [0])
    moved(attached, answered)
    before = answered(attached.model)
    assert (before - bare).abs().max() > 0.1
    merged = attached.merge(0)
    torch.testing.assert_close(answered(merged), before, rtol=0, atol=1e-4)
    merged.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(answered(again), before, rtol=0, atol=1e-4)


def answered(model: Any) -> torch.Tensor:
    """Logits of an encoder-decoder."""
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=tiny.ids(), decoder_input_ids=tiny.ids()).logits
    return found


def test_what_shares_nothing_stays_tied() -> None:
    model = tiny.llama(tie_word_embeddings=True)
    untie(model, [model.model.layers[0].self_attn.q_proj])
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.tie_word_embeddings is True
