"""Chats with several adapters on one base, of whom one is spoken to at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from isolora.adapters.chat import Chat, Turns
from isolora.adapters.generation import Sampling
from isolora.adapters.pool import AdapterPool
from isolora.errors import ConfigError, unknown


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
