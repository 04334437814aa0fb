"""Conversation: what the assistant says in a chat of several turns; all else is read and carries no loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from isolora.metrics.perplexity import perplexity
from isolora.tasks.base import Batch, Examples, Loss, Task
from isolora.tasks.causal import causal_class, causal_loss
from isolora.tasks.chat_templates import flaw, spoken, template_of, written
from isolora.tasks.pairs import bare_ids, next_of
from isolora.tasks.prompt_templates import Template
from isolora.tasks.rows import made


class ConversationSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    template: Template | None = Field(
        None, description="chat template in Jinja, or a file that holds it; the tokenizer's when absent"
    )


class Conversation(Task):
    """What is learnt is every turn of the assistant in `messages`, or a `completion` alone, behind its `prompt`."""

    name: ClassVar[str] = "conversation"
    predicts_tokens: ClassVar[bool] = True
    Settings: ClassVar[type[BaseModel]] = ConversationSettings
    columns: ClassVar[Mapping[str, bool]] = {"messages": False, "system": False, "prompt": False, "completion": False}

    def auto_class(self, architecture: Any) -> str:
        return causal_class(architecture)

    def problem(self, row: Mapping[str, Any]) -> str:
        if "messages" not in row and not {"prompt", "completion"} <= row.keys():
            return f"no messages, and no prompt with a completion (columns: {', '.join(row)})"
        messages, given = turns(row)
        found = flaw(messages)
        silent = not found and not any(turn["role"] == "assistant" for turn in messages[given:])
        return "messages: the assistant says nothing" if silent else found

    def examples(self, documents: Any, tokenizer: Any, max_length: int) -> Examples:
        """Conversations cut to `max_length` tokens."""
        template = template_of(self.settings.template, tokenizer)
        chats = list(made(self, documents, lambda row: spoken(turns(row)[0], tokenizer, template, turns(row)[1])))
        return Examples.of([next_of(ids[:max_length], own[:max_length]) for ids, own in chats], documents=np.arange(len(chats)))

    def loss(self, model: Any, batch: Batch) -> Loss:
        return causal_loss(model, batch)

    def prompt_ids(self, text: str, tokenizer: Any, room: int) -> list[int]:
        turn = [{"role": "user", "content": text}]
        chat = written(turn, tokenizer, template_of(self.settings.template, tokenizer), answer_next=True)
        return bare_ids([chat], tokenizer)[0][-room:]

    def restated(self, loss: float, examples: Examples, tokenizer: Any) -> dict[str, float]:
        return {"perplexity": perplexity(loss)}


def turns(row: Mapping[str, Any]) -> tuple[Any, int]:
    """(the conversation, how many of its turns are only read); prompt and completion are turns, or a text each."""
    if row.get("messages") is not None or not {"prompt", "completion"} <= row.keys():
        return row.get("messages"), 0
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    read = system + _said(row["prompt"], "user")
    return read + _said(row["completion"], "assistant"), len(read)


def _said(given: Any, role: str) -> list[Any]:
    return [{"role": role, "content": given}] if isinstance(given, str) else list(given or ())


task = Conversation()
