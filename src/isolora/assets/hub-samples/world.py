"""A small world of people who do things somewhere on some day: what the samples' sentences and questions are made from."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

T = TypeVar("T")

PEOPLE = (
    "Ada Alan Amara Bela Boris Carla Chen Clara Dmitri Edith Emil Fatima Felix Greta Hugo Ines Ivan Jonas Karim Lena "
    "Lukas Mara Mei Nadia Noor Olga Omar Paula Pedro Rosa Ruth Samir Sofia Tariq Tomas Vera Viktor Yara Yusuf Zoe"
).split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
# verb in the past, its infinitive, another that means the same
VERBS = (
    ("bought", "buy", "purchased"),
    ("sold", "sell", "gave away for money"),
    ("repaired", "repair", "fixed"),
    ("lost", "lose", "mislaid"),
    ("found", "find", "discovered"),
    ("borrowed", "borrow", "took on loan"),
    ("hid", "hide", "concealed"),
    ("cleaned", "clean", "washed"),
)


@dataclass(frozen=True)
class Vocabulary:
    """What there is in one part of the world."""

    things: tuple[tuple[str, str], ...]  # (thing, what kind of thing it is)
    places: tuple[str, ...]


TOWN = Vocabulary(
    (
        ("a bicycle", "a vehicle"),
        ("a van", "a vehicle"),
        ("a rowing boat", "a vehicle"),
        ("a violin", "an instrument"),
        ("a piano", "an instrument"),
        ("a trumpet", "an instrument"),
        ("a wooden chair", "a piece of furniture"),
        ("a bookshelf", "a piece of furniture"),
        ("a kitchen table", "a piece of furniture"),
        ("a winter coat", "a piece of clothing"),
        ("a straw hat", "a piece of clothing"),
    ),
    ("at the market", "in the harbour", "near the station", "behind the church", "in the park", "at the museum", "by the river"),
)
OFFICE = Vocabulary(
    (
        ("a laptop", "a computer"),
        ("a server", "a computer"),
        ("a stapler", "a tool"),
        ("a screwdriver", "a tool"),
        ("a contract", "a document"),
        ("an invoice", "a document"),
        ("a letter", "a document"),
        ("a desk lamp", "a lamp"),
    ),
    ("in the archive", "in the canteen", "at the front desk", "in the server room", "on the third floor", "in the meeting room"),
)


@dataclass(frozen=True)
class Event:
    """Somebody did something with a thing, at a place, on a day."""

    person: str
    verb: tuple[str, str, str]
    thing: tuple[str, str]
    place: str
    day: str

    def __str__(self) -> str:
        return f"{self.person} {self.verb[0]} {self.thing[0]} {self.place} on {self.day}."

    @property
    def retold(self) -> str:
        """The same fact told another way."""
        return f"On {self.day}, {self.place}, {self.person} {self.verb[2]} {self.thing[0]}."

    @property
    def brief(self) -> str:
        return f"{self.person} {self.verb[0]} {self.thing[0]}."

    @property
    def vague(self) -> str:
        """Less than was said: the kind of thing, no day and no place."""
        return f"{self.person} {self.verb[0]} {self.thing[1]}."

    def contradicted(self, draw: random.Random, vocabulary: Vocabulary) -> Event:
        """One detail that cannot hold beside this event."""
        others = (
            replace(self, day=other(self.day, DAYS, draw)),
            replace(self, place=other(self.place, vocabulary.places, draw)),
        )
        return draw.choice(others)


def other(value: T, among: Sequence[T], draw: random.Random) -> T:
    return draw.choice([choice for choice in among if choice != value])


def event(draw: random.Random, vocabulary: Vocabulary = TOWN) -> Event:
    return Event(
        draw.choice(PEOPLE),
        draw.choice(VERBS),
        draw.choice(vocabulary.things),
        draw.choice(vocabulary.places),
        draw.choice(DAYS),
    )


def events(draw: random.Random, count: int, vocabulary: Vocabulary = TOWN) -> list[Event]:
    """Events of as many different people with as many different things."""
    people, things = draw.sample(PEOPLE, count), draw.sample(vocabulary.things, count)
    return [replace(event(draw, vocabulary), person=person, thing=thing) for person, thing in zip(people, things, strict=True)]
