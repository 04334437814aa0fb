"""Talking with several adapters in turn on one base."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import tiny
import torch

from isolora import adapters, cli
from isolora.adapters.chat import Chat, adapter_folders
from isolora.adapters.generation import Sampling
from isolora.errors import ConfigError
from isolora.store import Store
from isolora.training import train_stack

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of two adapters on one base."""
    folder = tmp_path_factory.mktemp("two")
    first = tiny.from_files(folder, steps=6, learning_rate=5e-2)
    configs = [first, first.model_copy(update={"seed": 1})]
    return [folder / "out" / "adapters" / name for name in train_stack(configs, Store(folder / "out"), "grid", quiet=True)]


def talk(two: list[Path], typed: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    words = ["chat", str(two[0]), "--also", f"other={two[1]}", "--max-new-tokens", "4", "--json"]
    monkeypatch.setattr(sys, "argv", ["isolora", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_each_answers_as_alone_and_remembers_its_own_turns(
    two: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert talk(two, "w5\n/use other\nw5\n/use first\nw13\n", monkeypatch) == 0
    turns = json.loads(capsys.readouterr().out)["turns"]
    alone = [Chat(adapters.load(place), how=Sampling(4)) for place in two]
    for chat, said in zip(alone, (("w5", "w13"), ("w5",)), strict=True):
        for text in said:
            chat.reply(text)
    assert turns == {"first": alone[0].turns, "other": alone[1].turns}
    assert alone[0].turns[1] != alone[1].turns[1]


def test_an_unknown_name_is_said_and_the_talk_goes_on(
    two: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert talk(two, "/use othr\nw5\n", monkeypatch) == 0
    printed = capsys.readouterr()
    assert "isolora: unknown adapter 'othr'; did you mean 'other'?" in printed.err
    assert [len(turns) for turns in json.loads(printed.out)["turns"].values()] == [2, 0]


@pytest.mark.parametrize("word", ["other", "=dir", "other="])
def test_what_is_no_pair_is_one_line(word: str) -> None:
    with pytest.raises(ConfigError, match="--also: expected NAME=DIR, got"):
        adapter_folders(Path("a"), [word])
