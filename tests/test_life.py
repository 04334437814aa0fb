"""The verbs of an adapter's life: answers on standard output, warnings beside it, a failed check in the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from person import run

from isolora import adapters
from isolora.adapters import RECORD
from isolora.config import MethodConfig
from isolora.training import train

torch.set_num_threads(1)
# PEFT 0.21 asks transformers 5.23 for a property that the latter is about to rename.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose adapter vLLM's defaults and llama.cpp would refuse or misread."""
    folder = tmp_path_factory.mktemp("made")
    config = tiny.from_files(folder, steps=4)
    method = MethodConfig(name="lora", rank=8, rank_stabilised=True, targets=["q_proj", "embed_tokens"])
    train(config.model_copy(update={"method": method}), folder / "out", quiet=True)
    return folder / "out"


def test_an_export_warns_on_both_channels(made: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    status, out, err = run(monkeypatch, capsys, "export", made, "--to", "peft", "--out", tmp_path / "peft", "--json")
    answer = json.loads(out)
    assert (status, answer["format"]) == (0, "peft")
    assert len(answer["warnings"]) == 3
    for part, warning in zip(
        ("vLLM takes adapted embeddings", "llama.cpp scales", "local folder"), answer["warnings"], strict=True
    ):
        assert part in warning
        assert f"isolora: mind: {warning}" in err
    assert "export --to merged works there" in answer["warnings"][1]


def test_a_checkpoint_that_is_not_there_is_one_line(made: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    words = ("export", made, "--to", "peft", "--out", tmp_path / "peft", "--checkpoint", 3)
    status, out, err = run(monkeypatch, capsys, *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "has no checkpoint of step 3 (it has none)" in err


def test_generate_prints_prompt_and_text(made: Path, monkeypatch, capsys) -> None:
    text = adapters.load(made).generate("w5 w13", 4)
    words = ("generate", made, "--prompt", "w5 w13", "--max-new-tokens", 4)
    assert run(monkeypatch, capsys, *words)[:2] == (0, f"w5 w13{text}\n")
    assert json.loads(run(monkeypatch, capsys, *words, "--json")[1]) == {"prompt": "w5 w13", "text": text}


def test_certify_ends_with_status_1_when_a_check_fails(made: Path, plain_peft_here: None, monkeypatch, capsys) -> None:
    status, out, _ = run(monkeypatch, capsys, "certify", made)
    assert (status, out.count("ok ")) == (0, 9)
    record = made / "adapter" / RECORD
    whole = record.read_text()
    record.write_text(whole.replace('"learning_rate": 0.01', '"learning_rate": 0.02'))
    status, out, _ = run(monkeypatch, capsys, "certify", made, "--json")
    record.write_text(whole)
    answer = json.loads(out)
    assert (status, answer["passed"]) == (1, False)
    assert [check["name"] for check in answer["checks"] if check["passed"] is False] == ["record"]
