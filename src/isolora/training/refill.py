"""The places of members that have ended go to the next runs of a queue, while the other members go on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping

from isolora.config import RunConfig
from isolora.training.loop import Loop


class Queue(ABC):
    """Runs that wait for a place in a stack. name: of the stack that they go through, for its checkpoints; joined: identities of
    those that have joined it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.joined: list[str] = []

    @abstractmethod
    def next_runs(self, ended: Mapping[str, str], running: Collection[str]) -> Mapping[str, RunConfig]:
        """The runs that join those that are running, by their identities; they are in the store as RUNNING. ended: members that
        have ended since it was last asked, with their states."""


class Refill:
    """What a loop does after every step. conclude: enters how a member of the stack has ended, and keeps its adapter."""

    def __init__(self, queue: Queue, conclude: Callable[[int], None]) -> None:
        self.queue, self.conclude = queue, conclude
        self.concluded: set[str] = set()

    def __call__(self, loop: Loop) -> bool:
        """Returns whether anybody has joined."""
        stack = loop.stack
        ended = {stack.names[k]: k for k, member in enumerate(stack.members) if not member.running}
        news = {name: k for name, k in ended.items() if name not in self.concluded}
        if not news or not stack.can_change:
            return False
        for k in news.values():
            self.conclude(k)
        self.concluded |= news.keys()
        states = {name: stack.members[k].progress.state for name, k in news.items()}
        joining = self.queue.next_runs(states, [stack.names[k] for k in stack.running])
        if not joining:
            return False
        self.queue.joined += joining
        stack.refill(joining)
        loop.evaluator.attached = stack.attached
        for observer in loop.observers:
            observer.on_joined(stack)
        return True
