"""Conversation: what the assistant says in a chat of several turns; all else is read and carries no loss."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from isolora.json_types import JsonMapping
from isolora.tasks.base import Batch, Examples, Loss, Task
from isolora.tasks.causal import causal_class, causal_loss
from isolora.tasks.chat_templates import assistant_tokens, conversation_problem, render, template_of
from isolora.tasks.pairs import ids_without_special_tokens, next_of
from isolora.tasks.prompt_templates import Template
from isolora.tasks.rows import make_each

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from isolora.data import Documents


class ConversationSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    template: Template | None = Field(
        None, description="chat template in Jinja, or a file that holds it; the tokenizer's when absent"
    )


class Conversation(Task):
    """What is learnt is every turn of the assistant in `messages` (of role and content, or of from and value), or a `completion`
    alone, behind its `prompt`.

    system: the system prompt of either; tools: descriptions of tools for the template, as a list or as JSON.
    """

    name: ClassVar[str] = "conversation"
    predicts_tokens: ClassVar[bool] = True
    Settings: ClassVar[type[BaseModel]] = ConversationSettings
    columns: ClassVar[Mapping[str, bool]] = dict.fromkeys(("messages", "system", "tools", "prompt", "completion"), False)
    either: ClassVar[tuple[tuple[str, ...], ...]] = (("messages",), ("prompt", "completion"))

    def auto_class(self, architecture: PretrainedConfig) -> str:
        return causal_class(architecture)

    def problem(self, row: JsonMapping) -> str:
        if "messages" not in row and not {"prompt", "completion"} <= row.keys():
            return f"no messages, and no prompt with a completion (columns: {', '.join(row)})"
        messages, context = turns(row)
        found = conversation_problem(messages) or _system_problem(row, messages) or _tools_problem(row.get("tools"))
        silent = not found and not any(turn["role"] == "assistant" for turn in messages[context:])
        return "messages: the assistant says nothing" if silent else found

    def examples(self, documents: Documents, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Examples:
        """Conversations cut to `max_length` tokens."""

        def tokens(row: JsonMapping) -> tuple[list[int], list[bool]]:
            messages, context = turns(row)
            tools = tools_of(row.get("tools"))
            template = template_of(self.settings.template, tokenizer, tools)
            return assistant_tokens(messages, tokenizer, template, context, tools)

        chats = list(make_each(self, documents, tokens))
        return Examples.of([next_of(ids[:max_length], own[:max_length]) for ids, own in chats], documents=np.arange(len(chats)))

    def nothing_to_learn(self, max_length: int) -> str:
        return f"the assistant says nothing within the first {max_length} tokens (data.max_length)"

    def loss(self, model: PreTrainedModel, batch: Batch) -> Loss:
        return causal_loss(model, batch)

    def prompt_ids(self, text: str, tokenizer: PreTrainedTokenizerBase, room: int) -> list[int]:
        turn = [{"role": "user", "content": text}]
        chat = render(turn, tokenizer, template_of(self.settings.template, tokenizer), answer_next=True)
        return ids_without_special_tokens([chat], tokenizer)[0][-room:]


def turns(row: JsonMapping) -> tuple[Any, int]:
    """(the conversation, how many of its turns are only read); prompt and completion are turns, or a text each."""
    system = [{"role": "system", "content": row["system"]}] if _given_system(row) else []
    if row.get("messages") is not None or not {"prompt", "completion"} <= row.keys():
        return _behind(system, _with_roles(row.get("messages"))), 0
    context = _behind(system, _as_turns(row["prompt"], "user"))
    return context + _as_turns(row["completion"], "assistant"), len(context)


SPEAKERS = {"human": "user", "gpt": "assistant"}
"""What ShareGPT's files call the two."""


def _with_roles(messages: object) -> Any:
    """Turns of {from, value}, as ShareGPT's files have them, as {role, content}; others as they are."""
    if not isinstance(messages, list) or not all(
        isinstance(turn, dict) and {"from", "value"} <= turn.keys() for turn in messages
    ):
        return messages
    return [{"role": SPEAKERS.get(turn["from"], turn["from"]), "content": turn["value"]} for turn in messages]


def _as_turns(given: Any, role: str) -> list[Any]:
    return [{"role": role, "content": given}] if isinstance(given, str) else list(given or ())


def _behind(system: list[Any], messages: object) -> Any:
    """The turns behind the system prompt, unless they have one."""
    return messages if not isinstance(messages, list) or _own_system(messages) is not None else system + messages


def _own_system(messages: list[Any]) -> Any:
    first = messages[0] if messages else None
    return first.get("content") if isinstance(first, dict) and first.get("role") == "system" else None


def _system_problem(row: JsonMapping, messages: list[Any]) -> str:
    """A row whose column and whose first turn disagree about the system prompt."""
    differs = _given_system(row) and row["system"] != _own_system(messages)
    return "system is not the system turn of the messages" if differs else ""


def _given_system(row: JsonMapping) -> bool:
    """Whether the column holds anything."""
    given = row.get("system")
    return bool(given.strip() if isinstance(given, str) else given)


def tools_of(given: object) -> Any:
    """Descriptions of tools from a row: a list, or JSON. Raises ValueError for other text."""
    return json.loads(given) if isinstance(given, str) and given.strip() else given or None


def _tools_problem(given: object) -> str:
    try:
        tools = tools_of(given)
    except ValueError:
        return "tools is no JSON"
    sound = tools is None or (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools))
    return "" if sound else "tools is no list of descriptions like {type: function, function: {name, ...}}"


task = Conversation()
