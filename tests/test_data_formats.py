"""TRL's data formats from local files: each is read by the task that learns from it, as plain text and as turns of a chat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from isolora.config import DataConfig
from isolora.errors import ConfigError, DataError
from isolora.tasks.base import IGNORED, Examples

TEMPLATE = (
    "{% for turn in messages %}{{ {'system': 'w50', 'user': 'w51', 'assistant': 'w52'}[turn.role] }} {{ turn.content }} w59 "
    "{% endfor %}{% if add_generation_prompt %}w52 {% endif %}"
)
MARKED = TEMPLATE.replace(
    "{{ turn.content }} w59 ",
    "{% if turn.role == 'assistant' %}{% generation %}{{ turn.content }} w59 {% endgeneration %}"
    "{% else %}{{ turn.content }} w59 {% endif %}",
)
Row = dict[str, Any]


def turns(*said: str) -> list[dict[str, str]]:
    """`user: w5` as TRL has it."""
    return [dict(zip(("role", "content"), turn.split(": "), strict=True)) for turn in said]


def learnt(folder: Path, task: str, row: Row, **settings: Any) -> list[tuple[str, str]]:
    """(what is read, what is learnt) of a row, in words; of its rejected answer too, where it has one."""
    config = tiny.from_rows(folder, "llama", {"name": task, **settings}, [])
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    train = tiny.prepared(config.model_copy(update={"data": DataConfig(source=str(folder))})).train
    return [words(side) for side in (train, train.second) if side is not None]


def words(examples: Examples) -> tuple[str, str]:
    """Each position predicts the next: the last token is never read."""
    tokenizer, asked = tiny.tokenizer(eos_token="w60"), examples.labels != IGNORED
    read = [*examples.ids[:1], *examples.ids[1:][~asked[:-1]]]
    return tokenizer.decode(read), tokenizer.decode(examples.labels[asked])


def test_text(tmp_path: Path) -> None:
    assert learnt(tmp_path, "causal-lm", {"text": "w2 w3 w4"}) == [("w2", "w3 w4 w60")]


def test_prompt_and_completion(tmp_path: Path) -> None:
    row = {"prompt": "w2 w3", "completion": "w4"}
    assert learnt(tmp_path, "instruction", row) == [("w2 w3", "w4 w60")]


@pytest.mark.parametrize("template", [TEMPLATE, MARKED])
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"messages": turns("system: w9", "user: w2", "assistant: w3", "user: w4", "assistant: w5")},
            ("w50 w9 w59 w51 w2 w59 w52 w51 w4 w59 w52", "w3 w59 w5 w59"),
        ),
        ({"prompt": turns("user: w2"), "completion": turns("assistant: w3")}, ("w51 w2 w59 w52", "w3 w59")),
        (
            {"prompt": turns("user: w2", "assistant: w3", "user: w4"), "completion": turns("assistant: w5")},
            ("w51 w2 w59 w52 w3 w59 w51 w4 w59 w52", "w5 w59"),  # an answer in the prompt is only read
        ),
        ({"prompt": "w2 w3", "completion": "w4"}, ("w51 w2 w3 w59 w52", "w4 w59")),
        ({"system": "w9", "prompt": "w2", "completion": "w4"}, ("w50 w9 w59 w51 w2 w59 w52", "w4 w59")),
        ({"system": "", "prompt": "w2", "completion": "w4"}, ("w51 w2 w59 w52", "w4 w59")),
    ],
)
def test_chats(template: str, row: Row, expected: tuple[str, str], tmp_path: Path) -> None:
    assert learnt(tmp_path, "conversation", row, template=template) == [expected]


CHOSEN, REJECTED = ("w2 w3", "w4 w60"), ("w2 w3", "w5 w6 w60")
CHAT_CHOSEN, CHAT_REJECTED = ("w51 w2 w59 w52", "w4 w59"), ("w51 w2 w59 w52", "w5 w59")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "w2 w3", "chosen": "w4", "rejected": "w5 w6"}, [CHOSEN, REJECTED]),
        ({"chosen": "w2 w3 w4", "rejected": "w2 w3 w5 w6"}, [CHOSEN, REJECTED]),
        ({"chosen": "w2\nw34", "rejected": "w2\nw35"}, [("w2", "w34 w60"), ("w2", "w35 w60")]),  # w3 is no word of its own
        (
            {"prompt": turns("user: w2"), "chosen": turns("assistant: w4"), "rejected": turns("assistant: w5")},
            [CHAT_CHOSEN, CHAT_REJECTED],
        ),
        (
            {"chosen": turns("user: w2", "assistant: w4"), "rejected": turns("user: w2", "assistant: w5")},
            [CHAT_CHOSEN, CHAT_REJECTED],
        ),
    ],
)
def test_preferences(row: Row, expected: list[tuple[str, str]], tmp_path: Path) -> None:
    of_turns = isinstance(row["chosen"], list)
    assert learnt(tmp_path, "preference", row, **({"template": TEMPLATE} if of_turns else {})) == expected


@pytest.mark.parametrize(
    ("task", "row", "said"),
    [
        ("conversation", {"text": "w2"}, r"no messages, and no prompt with a completion \(columns: text\)"),
        ("conversation", {"prompt": "w2", "completion": None}, "the assistant says nothing"),
        ("conversation", {"prompt": turns("assistant: w2"), "completion": "w3"}, "starts with the assistant"),
        ("conversation", {"messages": turns("user: w2")}, "the assistant says nothing"),
        ("instruction", {"prompt": turns("user: w2"), "completion": "w3"}, r"\(task conversation reads turns\)"),
        ("preference", {"prompt": "w2", "chosen": "w3"}, "no column 'rejected'"),
    ],
)
def test_what_a_task_cannot_read_is_one_line(task: str, row: Row, said: str, tmp_path: Path) -> None:
    with pytest.raises((DataError, ConfigError), match=said) as caught:
        learnt(tmp_path, task, row)
    assert "\n" not in str(caught.value)
