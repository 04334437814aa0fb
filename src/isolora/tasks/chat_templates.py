"""Conversations through a chat template: as tokens of which the assistant's are known, or as prompt and answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from itertools import takewhile
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from isolora.errors import ConfigError, DataError
from isolora.tasks.pairs import Ids, Pair
from isolora.tasks.prompt_templates import FAILURES

Messages = Sequence[Mapping[str, Any]]
ROLES = ("system", "user", "assistant", "tool")
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""Marks what the assistant says, in templates that know of it."""
MARK_THEM = "mark the assistant's with {% generation %} ... {% endgeneration %}"


@cache
def plain_template() -> str:
    """For tokenizers that bring none: `User: ...` and `Assistant: ...`, a line each."""
    return (resources.files("isolora") / "assets" / "templates" / "chat.jinja").read_text(encoding="utf-8")


def template_of(given: str | None, tokenizer: Any) -> str:
    """The template asked for, else the tokenizer's own, else the plain one."""
    return given or getattr(tokenizer, "chat_template", None) or plain_template()


def flaw(messages: Any, name: str = "messages") -> str:
    """What is wrong with a conversation, in a few words; empty where nothing is."""
    if not isinstance(messages, list) or not messages:
        return f"{name} holds no list of turns like {{role: user, content: ...}}"
    for number, turn in enumerate(messages, 1):
        if not isinstance(turn, dict) or turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
            return f"{name}: turn {number} is not {{role, content}} with a role of {', '.join(ROLES)}"
    roles = [turn["role"] for turn in messages if turn["role"] != "system"]
    if roles[:1] == ["assistant"]:
        return f"{name}: the conversation starts with the assistant; a user's turn has to come first"
    return ""


def written(messages: Messages, tokenizer: Any, template: str, answer_next: bool = False) -> str:
    """The conversation as one text; answer_next: up to where the assistant goes on. Raises DataError where that is refused."""
    with _refusals(messages):
        text: str = tokenizer.apply_chat_template(
            _bare(messages), chat_template=template, tokenize=False, add_generation_prompt=answer_next
        )
    return text


def spoken(messages: Messages, tokenizer: Any, template: str, given: int = 0) -> tuple[Ids, list[bool]]:
    """(ids, whether each is the assistant's, behind the first `given` turns). Raises ConfigError for a template that does not let
    them be told apart."""
    ids, own = _assistants(messages, tokenizer, template)
    read = _opening(ids, written(messages[:given], tokenizer, template, answer_next=True), tokenizer) if given else 0
    return ids, [False] * read + own[read:]


def _assistants(messages: Messages, tokenizer: Any, template: str) -> tuple[Ids, list[bool]]:
    if GENERATION.search(template):
        given = {"chat_template": template, "return_assistant_tokens_mask": True, **tokenizer.special_tokens_map}
        with _refusals(messages):
            (text,), (spans,) = render_jinja_template([_bare(messages)], **given)
        ids, places = _encoded(text, tokenizer)
        return ids, [any(begin < stop and start < end for start, stop in spans) for begin, end in places]
    text = written(messages, tokenizer, template)
    ids, places = _encoded(text, tokenizer)
    own = [False] * len(ids)
    for turn, message in enumerate(messages):
        if message["role"] == "assistant":
            start = _opening(ids, written(messages[:turn], tokenizer, template, answer_next=True), tokenizer)
            stop = _opening(ids, written(messages[: turn + 1], tokenizer, template), tokenizer)
            said = text[places[start][0] : places[stop - 1][1]] if start < stop else ""
            if message["content"].strip() not in said:
                raise ConfigError(f"task.template: the chat template rewrites earlier turns; {MARK_THEM}")
            own[start:stop] = [True] * (stop - start)
    return ids, own


def shared(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many items two sequences open with alike."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))


def answered(prompt: Messages, answer: Messages, tokenizer: Any, template: str) -> Pair:
    """What is said before an answer, and the answer as the template continues it."""
    before = written(prompt, tokenizer, template, answer_next=True)
    whole = written([*prompt, *answer], tokenizer, template)
    start = shared(before, whole)
    return Pair("", whole[:start], whole[start:], is_chat=True)


@contextmanager
def _refusals(messages: Messages) -> Iterator[None]:
    try:
        yield
    except FAILURES as failure:
        begins = messages[0]["content"][:40]
        raise DataError(f"task.template: refuses the conversation that begins with {begins!r}: {failure}") from None


def _encoded(text: str, tokenizer: Any) -> tuple[Ids, list[tuple[int, int]]]:
    """(ids, where each stands in the text)."""
    made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return made["input_ids"], made["offset_mapping"]


def _opening(ids: Ids, beginning: str, tokenizer: Any) -> int:
    """How many tokens the conversation shares with the text of its first turns."""
    return shared(ids, _encoded(beginning, tokenizer)[0])


def _bare(messages: Messages) -> list[dict[str, Any]]:
    """Without keys that only other turns have, which tables fill with nulls."""
    return [{key: value for key, value in turn.items() if value is not None} for turn in messages]
