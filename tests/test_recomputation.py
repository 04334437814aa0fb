"""Recomputed layers compute what they compute otherwise, whatever the base drops out in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import headed
import pytest
import tiny
import torch
from transformers import AlbertConfig, AlbertForMaskedLM, OPTConfig, OPTForCausalLM

from isolora.errors import ConfigError
from isolora.methods.lora import LoraSettings, method
from isolora.methods.recomputation import enable_recomputation

torch.set_num_threads(1)
OPT = {
    "hidden_size": 16,
    "ffn_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "word_embed_proj_dim": 16,
    "max_position_embeddings": 64,
}


def opt() -> Any:
    return tiny.seeded(OPTForCausalLM, OPTConfig(vocab_size=tiny.VOCABULARY, init_std=0.2, dropout=0.5, **OPT))


def gradient(model: Any, recomputed: bool) -> tuple[float, torch.Tensor]:
    """The loss, and what it says of the first factor, in training."""
    attached = method.attach(model, [LoraSettings(rank=2)], [0])
    if recomputed:
        enable_recomputation(model)
    attached.train(True)
    weights = attached.groups(0)[0].parameters
    with torch.no_grad():
        for weight in weights:
            weight.fill_(0.01)
    given = {"decoder_input_ids": tiny.ids()} if model.config.is_encoder_decoder else {}
    loss = model(input_ids=tiny.ids(), **given).logits.logsumexp(-1).mean()
    loss.backward()
    grown = torch.cat([weight.grad.flatten() for weight in weights])
    attached.train(False)
    assert not any(module.training for module in model.modules())
    return loss.item(), grown


@pytest.mark.parametrize("kind", ["opt", "bart", "t5", "llama", "gpt2"])
def test_the_dropout_of_the_base_stays_off(kind: str) -> None:
    """OPT, BART and T5 drop out in the layers that transformers recomputes: from no seed, and in both passes anew."""
    build = opt if kind == "opt" else tiny.ARCHITECTURES[kind]
    plain, recomputed = (gradient(build(), on) for on in (False, True))
    assert recomputed[0] == pytest.approx(plain[0], rel=1e-6)
    torch.testing.assert_close(recomputed[1], plain[1], rtol=1e-4, atol=1e-7)


def test_an_architecture_that_recomputes_nothing_is_refused() -> None:
    model = tiny.seeded(AlbertForMaskedLM, AlbertConfig(vocab_size=tiny.VOCABULARY, embedding_size=8, **tiny.BERT))
    with pytest.raises(ConfigError, match=r"training\.gradient_checkpointing: AlbertForMaskedLM does not support it"):
        enable_recomputation(model)


def test_members_of_a_stack_whose_rows_a_layer_mixes_go_on_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """OPT takes all tokens of a batch as one row each: a stack of its adapters ended in an assertion, at every try."""
    config = tiny.from_files(tmp_path, steps=4, evaluate_from=1, learning_rate=1e-2)
    config = config.model_copy(update={"model": tiny.save(tmp_path / "base", opt())})
    headed.in_a_stack_as_alone(config, tmp_path)
    assert "x 2: a layer mixes the rows of a batch; going on one by one" in capsys.readouterr().err
