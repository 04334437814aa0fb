"""Prices on the disk: the same answer without torch, and another one as soon as anything that decides it has changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from isolora.config import RunConfig, parse
from isolora.cost import answers, flops, kept
from isolora.cost.accelerators import HERE
from isolora.cost.estimate import cost
from isolora.cost.flops import ledger_of

ASK = """
import sys
sys.argv = ["isolora", "cost", *sys.argv[1:], "--json"]
from isolora.cli import main
try:
    main()
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ISOLORA_CACHE", str(tmp_path / "cache"))
    tiny.llama().config.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def a_run(folder: Path, rank: int = 4) -> RunConfig:
    return parse(RunConfig, {"model": str(folder), "method": {"rank": rank}, "training": {"steps": 1}})


def asked(folder: Path) -> tuple[dict[str, object], bool]:
    """(the answer, whether torch was imported for it)."""
    words = [sys.executable, "-c", ASK, f"model={folder}", "batch=2", "length=8"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout), done.stderr.strip().endswith("True")


def test_the_second_answer_needs_no_torch(folder: Path) -> None:
    (first, loaded), (second, loaded_again) = asked(folder), asked(folder)
    assert first == second
    assert (loaded, loaded_again) == (True, False)


def test_a_changed_model_is_priced_again(folder: Path) -> None:
    run, words = a_run(folder), [f"model={folder}", "method.rank=4"]
    answers.keep(None, words, (2, 8), run, cost(run, (2, 8)))
    assert answers.find_answer(None, words, (2, 8), HERE) is not None
    assert answers.find_answer(None, words, (2, 9), HERE) is None
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**described, "num_hidden_layers": 3}))
    assert answers.find_answer(None, words, (2, 8), HERE) is None


def test_a_ledger_is_rehearsed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ledger_of(a_run(folder))
    monkeypatch.setattr(flops, "rehearse", lambda *_: pytest.fail("rehearsed again"))
    again = ledger_of(a_run(folder))
    assert again.to_json() == first.to_json()
    with pytest.raises(BaseException, match="rehearsed again"):
        ledger_of(a_run(folder, rank=5))


def test_a_copy_of_a_model_has_its_price(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ledger_of(a_run(folder))
    copied = shutil.copytree(folder, tmp_path / "another")
    monkeypatch.setattr(flops, "rehearse", lambda *_: pytest.fail("rehearsed again"))
    assert ledger_of(a_run(copied)).to_json() == first.to_json()


def test_other_sources_have_other_keys(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = kept.price_key(a_run(folder), 2)
    assert before == kept.price_key(a_run(folder), 2) != kept.price_key(a_run(folder), 3)
    monkeypatch.setattr(kept, "sources_digest", lambda rooms: "changed")
    assert kept.price_key(a_run(folder), 2) != before
    assert kept.price_key(a_run(folder).model_copy(update={"trust_remote_code": True}), 2) is None
