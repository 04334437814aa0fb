"""Decoders: one that sees the tokens it has to predict is refused, however transformers calls it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from person import one_line
from transformers import BertGenerationConfig, BertGenerationDecoder

from isolora.config import RunConfig, TaskConfig
from isolora.errors import ConfigError
from isolora.models.configuration import position_bound, positions
from isolora.runs.prepared import PreparedRun
from isolora.tasks.causal import sees_what_follows

torch.set_num_threads(1)
BIDIRECTIONAL = {**tiny.BERT, "vocab_size": tiny.VOCABULARY, "initializer_range": 0.2}


def bert_generation(**changes: Any) -> Any:
    return tiny.seeded(BertGenerationDecoder, BertGenerationConfig(**BIDIRECTIONAL, **changes))


def a_run(folder: Path, model: Any, task: str) -> RunConfig:
    given = tiny.from_files(folder, steps=2)
    return given.model_copy(update={"model": tiny.save(folder / "own", model), "task": TaskConfig(name=task)})


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral", "mixtral", "bloom"])
def test_a_decoder_does_not_see_what_follows(kind: str) -> None:
    assert not sees_what_follows(tiny.ARCHITECTURES[kind]())


def test_dropout_is_no_sight_of_what_follows() -> None:
    model = tiny.gpt2(resid_pdrop=0.5).train()
    assert not sees_what_follows(model)
    assert model.training


@pytest.mark.parametrize("is_decoder", [False, True])
def test_a_base_that_copies_its_labels_is_refused(is_decoder: bool, tmp_path: Path) -> None:
    """BertGeneration attends to both sides unless its configuration says otherwise, and was trained as a decoder."""
    config = a_run(tmp_path, bert_generation(is_decoder=is_decoder), "causal-lm")
    if is_decoder:
        with PreparedRun.load(config) as prepared:
            assert not sees_what_follows(prepared.base.model)
        return
    with pytest.raises(ConfigError) as caught:
        PreparedRun.load(config)
    assert "bert-generation lets a token see those that follow it" in one_line(caught)


def test_no_bound_of_positions_is_none() -> None:
    """XLNet says -1, which was taken for a number: "its configuration leaves -1 positions for text"."""
    config = tiny.llama().config
    assert position_bound(config) == positions(config) == 64
    config.max_position_embeddings = -1
    assert position_bound(config) is None
    assert positions(config) == 1024
