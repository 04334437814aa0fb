"""Conversation: what the assistant says in a chat of several turns; all else is read and carries no loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from isolora.metrics.perplexity import perplexity
from isolora.tasks._base import Batch, Examples, Loss, Task
from isolora.tasks._causal import causal_class, causal_loss
from isolora.tasks._chat import flaw, spoken, template_of, written
from isolora.tasks._pairs import bare_ids, next_of
from isolora.tasks._rows import checked
from isolora.tasks._templates import Template


class ConversationSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    template: Template | None = Field(
        None, description="chat template in Jinja, or a file that holds it; the tokenizer's when absent"
    )


class Conversation(Task):
    name: ClassVar[str] = "conversation"
    Settings: ClassVar[type[BaseModel]] = ConversationSettings
    columns: ClassVar[Mapping[str, bool]] = {"messages": True}

    def auto_class(self, architecture: Any) -> str:
        return causal_class(architecture)

    def problem(self, row: Mapping[str, Any]) -> str:
        found = flaw(row["messages"])
        silent = not found and not any(turn["role"] == "assistant" for turn in row["messages"])
        return "messages: the assistant says nothing" if silent else found

    def examples(self, documents: Any, tokenizer: Any, max_length: int) -> Examples:
        """Conversations cut to `max_length` tokens."""
        template = template_of(self.settings.template, tokenizer)
        chats = [spoken(row["messages"], tokenizer, template) for row in checked(self, documents)]
        return Examples.of([next_of(ids[:max_length], own[:max_length]) for ids, own in chats], documents=np.arange(len(chats)))

    def loss(self, model: Any, batch: Batch) -> Loss:
        return causal_loss(model, batch)

    def prompt_ids(self, text: str, tokenizer: Any, room: int) -> list[int]:
        turn = [{"role": "user", "content": text}]
        chat = written(turn, tokenizer, template_of(self.settings.template, tokenizer), answer_next=True)
        return bare_ids([chat], tokenizer)[0][-room:]

    def restated(self, loss: float, examples: Examples, tokenizer: Any) -> dict[str, float]:
        return {"perplexity": perplexity(loss)}


task = Conversation()
