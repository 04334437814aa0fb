"""From a run's configuration to base and examples: what is kept between runs is never out of date."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

from isolora import models
from isolora.errors import ConfigError, DataError
from isolora.runs.prepared import prepare, run_identity


def test_a_base_is_kept_until_it_changes(tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path)
    first, name, fingerprint = prepare(config), run_identity(config), models.fingerprint(config.model)
    assert prepare(config.model_copy(update={"seed": 1})).base is first.base
    model = tiny.llama()
    model.model.embed_tokens.weight.data += 1
    model.save_pretrained(config.model)
    weight = prepare(config).base.model.model.embed_tokens.weight
    assert torch.equal(weight, first.base.model.model.embed_tokens.weight + 1)
    assert models.fingerprint(config.model) != fingerprint
    assert run_identity(config) != name


def test_an_identity_is_of_settings_base_and_texts(tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path)
    data = config.data.model_copy(update={"seed": 1})
    names = [
        run_identity(run) for run in (config, config.model_copy(update={"seed": 1}), config.model_copy(update={"data": data}))
    ]
    assert len(set(names)) == 3
    patient = config.training.model_copy(update={"checkpoint_seconds": 1.0})
    assert run_identity(config.model_copy(update={"training": patient})) == names[0]


def test_examples_fit_the_model(tmp_path: Path) -> None:
    config = tiny.from_files(tmp_path)
    short = config.model_copy(update={"data": config.data.model_copy(update={"max_length": 7})})
    assert prepare(short).train.lengths.max() == 7 < prepare(config).train.lengths.max()
    with pytest.raises(ConfigError, match=r"data\.max_length: 65 exceeds the model's 64 positions"):
        prepare(config.model_copy(update={"data": config.data.model_copy(update={"max_length": 65})}))
    with pytest.raises(DataError, match="leaves nothing to learn"):
        prepare(config.model_copy(update={"data": config.data.model_copy(update={"max_length": 1})}))
