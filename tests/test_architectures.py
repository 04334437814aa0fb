"""The packaged facts: each builds the model that was published, and is found without a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny

from isolora import models
from isolora.config import RunConfig
from isolora.errors import ConfigError
from isolora.models import architectures

POSITIONS = {
    "gpt2": 1024,
    "microsoft/DialoGPT-large": 1024,
    "roberta-large": 512,  # of 514 rows two come before the first token's
    "google-bert/bert-base-uncased": 512,
    "distilbert/distilbert-base-uncased": 512,
    "microsoft/deberta-v3-base": 512,
    "t5-small": 512,
    "google/flan-t5-base": 512,
    "bigscience/bloom-1b7": 2048,
    "facebook/bart-large-xsum": 1024,  # the two rows of its offset are not in the configuration's number
    "huggyllama/llama-7b": 2048,
    "EleutherAI/pythia-70m": 2048,
    "mistralai/Mixtral-8x7B-Instruct-v0.1": 32768,
    "Qwen/Qwen3-0.6B": 40960,
    "google/gemma-3-1b-pt": 32768,
    "meta-llama/Llama-3.2-1B": 131072,
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("looked for a network"))


@pytest.mark.parametrize("name", architectures.packaged_architectures())
def test_the_shape_has_the_published_count(name):
    facts = architectures.packaged_architectures()[name]
    model = architectures.on_meta(models.load_architecture(RunConfig(model=name)), facts.auto_class)
    assert sum(parameter.numel() for parameter in model.parameters()) == facts.parameters
    assert all(parameter.is_meta for parameter in model.parameters())
    assert facts.source


@pytest.mark.parametrize(("name", "positions"), POSITIONS.items())
def test_positions(name, positions):
    assert models.positions(models.load_architecture(RunConfig(model=name))) == positions


def test_a_composite_model_has_its_texts_positions():
    from transformers import Gemma3Config

    assert models.positions(Gemma3Config(text_config={"max_position_embeddings": 4096})) == 4096


def test_positions_as_mpt_calls_them():
    from transformers import MptConfig

    assert models.positions(MptConfig(max_seq_len=32)) == 32


def test_a_roberta_takes_no_token_more():
    """The bound is the model's own: one token further and its table of positions ends."""
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(**tiny.BERT, vocab_size=tiny.VOCABULARY, pad_token_id=1)
    model, bound = tiny.seeded(RobertaModel, config), models.positions(config)
    assert model(tiny.ids(1, bound)).last_hidden_state.shape[1] == bound == tiny.BERT["max_position_embeddings"] - 2
    with pytest.raises((IndexError, RuntimeError)):
        model(tiny.ids(1, bound + 1))


def test_older_ids_lead_to_the_same_facts():
    assert architectures.by_name()["roberta-large"] is architectures.packaged_architectures()["FacebookAI/roberta-large"]
    names = [name for facts in architectures.packaged_architectures().values() for name in (facts.name, *facts.aliases)]
    assert len(set(names)) == len(names) == len(architectures.by_name())


def test_a_changed_configuration_leaves_the_facts_alone():
    run = RunConfig(model="meta-llama/Llama-3.2-1B")
    models.load_architecture(run).rope_parameters["rope_theta"] = 1.0
    assert models.load_architecture(run).rope_parameters["rope_theta"] == 500_000


def test_a_local_folder_goes_before_the_facts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.llama().config.save_pretrained("gpt2")
    assert models.load_architecture(RunConfig(model="gpt2")).model_type == "llama"


def test_weights_of_a_known_shape_are_asked_of_the_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="model: cannot load 'gpt2'; its shape alone is packaged"):
        models.load_tokenizer(RunConfig(model="gpt2"))


@pytest.mark.parametrize(
    ("name", "near"),
    [("Llama-3.2-1b", "'meta-llama/Llama-3.2-1B'"), ("mistralai/Mixtral-8x7B", "'mistralai/Mixtral-8x7B-Instruct-v0.1'")],
)
def test_an_unknown_name_hears_of_near_ones(name, near, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="did you mean") as caught:
        models.load_architecture(RunConfig(model=name))
    assert near in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_architecture_is_one_line(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "lama"}))
    with pytest.raises(ConfigError, match=r"model: unknown architecture 'lama' in .*config.json; did you mean 'llama'") as caught:
        models.load_architecture(RunConfig(model=str(tmp_path)))
    assert "\n" not in str(caught.value)
