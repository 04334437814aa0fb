"""Talking with an adapter: turns, streaming, templates, and histories longer than the model."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import tiny
import torch

from isolora import adapters, cli
from isolora.adapters.chat import Chat
from isolora.adapters.generation import Sampling, Teller
from isolora.errors import DataError
from isolora.tasks.chat_templates import plain_template
from isolora.training import train

torch.set_num_threads(1)
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% endfor %}w60"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    train(tiny.from_files(folder, steps=4, learning_rate=5e-2), folder / "out", quiet=True)
    return folder / "out"


@pytest.fixture
def adapter(made: Path) -> adapters.Adapter:
    return adapters.load(made)


def test_pieces_make_up_the_answer(adapter: adapters.Adapter) -> None:
    pieces: list[str] = []
    chat = Chat(adapter, how=Sampling(max_new_tokens=6))
    answer = chat.reply("w5 w13", pieces.append)
    assert len(pieces) > 1
    assert "".join(pieces).strip() == answer
    assert answer == adapter.generate("User: w5 w13\nAssistant:", 6).strip()
    assert chat.turns == [{"role": "user", "content": "w5 w13"}, {"role": "assistant", "content": answer}]


def test_turns_and_system_prompt_are_remembered(adapter: adapters.Adapter) -> None:
    chat = Chat(adapter, system="w9", how=Sampling(max_new_tokens=3))
    assert chat.template == plain_template()
    first = chat.reply("w5")
    second = chat.reply("w13")
    history = f"System: w9\nUser: w5\nAssistant: {first}\nUser: w13\nAssistant:"
    assert second == adapter.generate(history, 3).strip()


def test_a_template_wins_over_the_plain_form(adapter: adapters.Adapter) -> None:
    adapter.base.tokenizer.chat_template = TEMPLATE
    answer = Chat(adapter, system="w9", how=Sampling(max_new_tokens=4)).reply("w5")
    assert answer == adapter.generate("<system> w9 <user> w5 w60", 4).strip()


def test_a_template_without_system_prompts_is_one_line(adapter: adapters.Adapter) -> None:
    adapter.base.tokenizer.chat_template = "{{ raise_exception('no system prompt here') }}"
    with pytest.raises(DataError, match="refuses the conversation that begins with 'w9': no system prompt here"):
        Chat(adapter, system="w9").reply("w5")


def test_long_histories_lose_their_oldest_turns(adapter: adapters.Adapter) -> None:
    """64 positions, 8 for the answer: of turns of about 20 tokens the last two fit; the system prompt stays."""
    chat = Chat(adapter, system="w9", how=Sampling(max_new_tokens=8))
    for number in range(4):
        chat.turns += [{"role": "user", "content": f"w{number + 20} " * 8}, {"role": "assistant", "content": "w7 " * 5}]
    chat.turns.append({"role": "user", "content": "w50"})
    text = adapter.base.tokenizer.decode(chat._prompt())
    assert len(chat._prompt()) <= 56
    assert "w9" in text
    assert "w50" in text
    assert ("w20" in text, "w21" in text, "w23" in text) == (False, False, True)


def test_a_question_longer_than_the_model_keeps_its_end(adapter: adapters.Adapter) -> None:
    chat = Chat(adapter, how=Sampling(max_new_tokens=8))
    assert len(chat.reply("w5 " * 100 + "w50").split()) == 8


def told(pieces: list[str], stop: str) -> list[str]:
    said: list[str] = []
    teller = Teller(None, said.append, stop)
    for number, piece in enumerate(pieces):
        teller.on_finalized_text(piece, stream_end=number == len(pieces) - 1)
    return said


def test_the_other_speakers_line_is_never_said() -> None:
    """Its beginning may come piece by piece; what only looks like it is said in the end."""
    assert told(["good", " day\n", "Us", "er: and", " more"], "\nUser:") == ["good", " day"]
    assert "".join(told(["a\n", "U", "boat\n", "Us"], "\nUser:")) == "a\nUboat\nUs"
    assert told(["a ", "b"], "") == ["a ", "b"]


def talk(made: Path, typed: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    monkeypatch.setattr(sys, "argv", ["isolora", "chat", str(made), "--max-new-tokens", "3", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code


@pytest.mark.parametrize("typed", ["w5\n\nw13\n", "w5\nw13\n/exit\nw20\n"])
def test_the_verb_answers_line_by_line_until_the_end(
    typed: str, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk(made, typed, monkeypatch)
    spoken = [line.strip() for line in capsys.readouterr().out.splitlines()]
    chat = Chat(adapters.load(made), how=Sampling(max_new_tokens=3))
    assert spoken == [chat.reply("w5"), chat.reply("w13")]


def test_the_verb_gives_one_object_with_json(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk(made, "w5\n", monkeypatch, "--json")
    turns = json.loads(capsys.readouterr().out)["turns"]
    assert [turn["role"] for turn in turns] == ["user", "assistant"]
