"""A conversation with an adapter, several turns long, kept within the model's positions; or with several adapters, by turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from isolora.adapters.generation import Sampling, Teller
from isolora.adapters.pool import AdapterPool
from isolora.adapters.saved_adapter import Adapter
from isolora.errors import ConfigError, unknown
from isolora.tasks.chat_templates import plain_template, render, template_of

Turns = list[dict[str, str]]


class Chat:
    """Turns with an adapter, in the template that it was trained with, else its tokenizer's, else as `User:` and `Assistant:`.

    turns: [{"role": "user", "content": ...}, {"role": "assistant", ...}, ...], all that was said.
    """

    def __init__(self, adapter: Adapter, system: str = "", how: Sampling | None = None) -> None:
        self.adapter, self.how = adapter, how or Sampling(max_new_tokens=200)
        self.system: Turns = [{"role": "system", "content": system}] if system else []
        self.turns: Turns = []
        trained = getattr(adapter.task.settings, "template", None) or ""
        about_turns = trained if "messages" in trained else None  # other tasks' templates are of prompts
        self.template = template_of(about_turns, adapter.base.tokenizer)

    def reply(self, text: str, say: Callable[[str], None] = lambda piece: None) -> str:
        """Answer; pieces go to `say` as they are made."""
        self.turns.append({"role": "user", "content": text})
        stop = "\nUser:" if self.template == plain_template() else ""
        teller = Teller(self.adapter.base.tokenizer, say, stop)
        self.adapter.writer.ids([self._prompt()], self.how, teller)
        answer = teller.text[: teller.said].strip()
        self.turns.append({"role": "assistant", "content": answer})
        return answer

    def _prompt(self) -> list[int]:
        """Tokens of as many of the last turns as leave the answer its room; of a single question that is too long, its end."""
        base = self.adapter.base
        limit = self.adapter.writer.room(self.how)
        for first in range(0, len(self.turns), 2):
            text = render(self.system + self.turns[first:], base.tokenizer, self.template, answer_next=True)
            ids: list[int] = base.tokenizer(text, add_special_tokens=base.model.config.is_encoder_decoder).input_ids
            if len(ids) <= limit:
                break
        return ids[-limit:]


class MultiAdapterChat:
    """Each adapter of the pool has a chat of its own, which goes on where it stopped; the first one is spoken to first."""

    def __init__(self, pool: AdapterPool, system: str = "", how: Sampling | None = None) -> None:
        self.pool = pool
        self.chats = {name: Chat(pool.adapter(name), system, how) for name in pool.members}
        self.current = next(iter(self.chats))

    def use(self, name: str) -> None:
        """Speak to another one. Raises ConfigError, naming those there are."""
        if name not in self.chats:
            raise ConfigError(unknown("adapter", name, self.chats))
        self.current = name

    def reply(self, text: str, say: Callable[[str], None] = lambda piece: None) -> str:
        """The current one's answer; pieces go to `say` as they are made."""
        with self.pool.use(self.current):
            return self.chats[self.current].reply(text, say)

    @property
    def turns(self) -> dict[str, Turns]:
        """All that was said, by name."""
        return {name: chat.turns for name, chat in self.chats.items()}


def adapter_folders(first: Path, others: Sequence[str]) -> Mapping[str, Path | str]:
    """Folders by name from `NAME=DIR` words; the first one's name is `first`. Raises ConfigError for other words."""
    pairs = [word.partition("=") for word in others]
    if wrong := [word for word, (name, _, folder) in zip(others, pairs, strict=True) if not name or not folder]:
        raise ConfigError(f"--also: expected NAME=DIR, got {wrong[0]!r}")
    return {"first": first, **{name: folder for name, _, folder in pairs}}
