"""Bases that cut texts into tokens of their own: their losses per token do not compare, so bits per byte take their place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from typer.testing import CliRunner

from isolora.cli import app
from isolora.config import StudyConfig, parse
from isolora.errors import ConfigError, TableError
from isolora.fit import fit, targeted
from isolora.plan import Limits, plan
from isolora.plan.asked import asked_plan
from isolora.study.running import run_study
from isolora.table import Table, read

torch.set_num_threads(1)
TOKENS = 2e4 * 2 ** (np.arange(12) / 1.5)
BYTES = {"short": 2.0, "long": 4.0}


def table(bytes_of: dict[str, float] = BYTES, more: float = 1.0) -> Table:
    """Three sizes of two makes; per byte "long" is better by a tenth, per token it looks worse. more: for the largest size."""
    rows = [
        (make, n, d, (0.9 if make == "long" else 1.0) * (1 + 30 * n**-0.3 + 40 * d**-0.5) / 4)
        for make in bytes_of
        for n in (1e5, 3e5, 1e6)
        for d in TOKENS
    ]
    makes, sizes, tokens, bits = (np.array(column) for column in zip(*rows, strict=True))
    names = np.array([f"{make}-{n:.0f}" for make, n in zip(makes, sizes, strict=True)], dtype=object)
    size_M = np.array([bytes_of[make] for make in makes]) * np.where(sizes == 1e6, more, 1.0)
    text = {"run": names, "model": names, "method": np.full(len(names), "lora", dtype=object)}
    numbers = {"rank": np.full(len(names), 4.0), "learning_rate": np.full(len(names), 0.01), "trainable_parameters": sizes / 100}
    measured = {"bits_per_byte": bits, "loss": bits * np.log(2) * size_M}
    return Table({**text, **numbers, **measured, "body_parameters": sizes, "tokens": tokens, "flops": 4 * sizes * tokens})


def test_bits_per_byte_take_the_place_of_the_loss() -> None:
    found = fit(table(), bootstrap=0)
    assert found.target == "bits_per_byte"
    assert found.remarks[0] == (
        "bases cut texts into tokens of their own (2.00 bytes for short-100000 and 4.00 bytes for long-100000), so that means"
        " over tokens do not compare; bits_per_byte is taken in place of the loss"
    )
    same = fit(table({"short": 3.0, "long": 3.0}), bootstrap=0)
    assert same.target == "loss"
    assert not any("tokens of their own" in remark for remark in same.remarks)


def test_a_few_thousandths_are_another_split_of_the_text() -> None:
    same = {"short": 3.0, "long": 3.0}
    assert targeted(table(same, more=1.004), "loss").name == "loss"
    assert targeted(table(same, more=1.006), "loss").name == "bits_per_byte"


def test_a_plan_chooses_by_what_compares() -> None:
    """By the losses per token the best is a "short" base; by the bytes that it predicts it is a "long" one."""
    points = table()
    best = points["model"][np.argmin(points["loss"])]
    assert best.startswith("short")
    advice = plan(fit(points, bootstrap=0), points, f"{2 * points['flops'].max()}flops")
    assert advice.target == "bits_per_byte"
    assert advice.model.startswith("long")
    assert 0 < advice.predicted_loss < 1


def test_what_is_asked_of_losses_that_do_not_compare_is_refused() -> None:
    points = table()
    with pytest.raises(TableError, match=r"^target 'perplexity': bases cut .*; ask for 'bits_per_byte'$"):
        fit(Table({**points.columns, "perplexity": np.exp(points["loss"])}), target="perplexity")
    with pytest.raises(ConfigError, match=r"^--reach loss: bases cut .*; ask for bits_per_byte=VALUE$"):
        asked_plan(points, None, "loss=2", None, Limits())


@pytest.fixture(scope="module")
def two_makes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A base that reads words and one that reads letters, and texts for both."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("makes")
    words = tiny.save(folder / "words", tiny.llama(), eos_token="w60")
    shutil.copytree(words, folder / "letters")
    entries = {"<pad>": 0, "<unk>": 1, "<end>": 2, "w": 3, **{str(digit): 4 + digit for digit in range(10)}}
    made = Tokenizer(models.WordLevel(entries, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")])
    letters = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", eos_token="<end>")
    letters.save_pretrained(folder / "letters")
    texts = tiny.texts(folder / "texts.txt")
    training = {"steps": 24, "batch_tokens": 64, "evaluate_from": 64, "learning_rate": 3e-3}
    data = {"source": str(texts), "eval_examples": 5, "max_length": 24}
    return {
        "base": {"data": data, "training": training, "method": {"rank": 2}},
        "models": [words, str(folder / "letters")],
    }


def test_a_study_of_two_tokenizers(two_makes: dict[str, Any], tmp_path: Path) -> None:
    study = parse(StudyConfig, {"base": two_makes["base"], "grid": {"model": two_makes["models"]}})
    run_study(study, tmp_path / "study", quiet=True)
    points = read(tmp_path / "study")
    assert set(points["base_kind"]) == {"llama, 61 entries", "llama, 14 entries"}
    assert np.isfinite(points["bits_per_byte"][points["tokens"] > 0]).all()
    answer = CliRunner().invoke(app, ["fit", str(tmp_path / "study"), "--law", "power", "--bootstrap", "0", "--json"])
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert found["target"] == "bits_per_byte"
    assert "tokens of their own" in found["remarks"][0]


@pytest.mark.parametrize("metric", ["loss", "perplexity"])
def test_a_search_over_two_tokenizers_needs_a_measure_that_compares(
    two_makes: dict[str, Any], tmp_path: Path, metric: str
) -> None:
    pytest.importorskip("optuna")
    search = {"space": {"model": two_makes["models"]}, "trials": 2, "metric": metric}
    study = parse(StudyConfig, {"base": two_makes["base"], "search": search})
    line = rf"^search.metric: '{metric}' is a mean over tokens, .*; set search.metric: bits_per_byte$"
    with pytest.raises(ConfigError, match=line):
        run_study(study, tmp_path / "refused", quiet=True)
    study = parse(StudyConfig, {"base": two_makes["base"], "search": {**search, "metric": "bits_per_byte"}})
    run_study(study, tmp_path / "searched", quiet=True)
