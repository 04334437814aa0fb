"""The templates: read from their files, divided by the story they tell, and forms made at random."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from values import LANGUAGES

HERE = Path(__file__).parent
SEED = 20261122
HELD_OUT = {"test": 24, "validation": 16}  # template families
FEWEST_IN_TRAIN = 5  # template families that an entity type keeps in training
FORM_FIELDS = (3, 8)
SLOT = re.compile(r"\{([A-Z0-9]+)\}")


@dataclass(frozen=True)
class Template:
    """A text with slots. German, French and Italian tell the same stories: those with one `family` share a split."""

    language: str
    family: str
    text: str

    @property
    def kinds(self) -> set[str]:
        return {kind_of(slot) for slot in SLOT.findall(self.text)}


def kind_of(slot: str) -> str:
    """`LASTNAME2` is another LASTNAME; `IPV4` is itself."""
    return slot if slot in ("IPV4", "IPV6") else slot.rstrip("2")


def blocks(folder: str, language: str, apart: str) -> list[str]:
    return (HERE / folder / f"{language}.txt").read_text(encoding="utf-8").strip().split(apart)


def templates() -> list[Template]:
    found = []
    for language in sorted(set(LANGUAGES.values())):
        prefix = "en" if language == "en" else "continental"
        texts = enumerate(blocks("templates", language, "\n\n"), 1)
        found += [Template(language, f"{prefix}-{number}", text) for number, text in texts]
    return found


def labels(language: str) -> dict[str, list[str]]:
    """Entity type -> what a form may call it."""
    lines = (line.partition(": ") for line in blocks("labels", language, "\n"))
    return {kind: names.split(", ") for kind, _, names in lines}


def form(names: dict[str, list[str]], language: str, chance: random.Random) -> Template:
    """Random fields in random order under one of their names."""
    fields = chance.sample(sorted(names), chance.randint(*FORM_FIELDS))
    colon = " : " if language == "fr" else chance.choice((": ", ": ", " - "))
    recased = chance.choice((str.capitalize, str, str.upper))
    lines = (f"{recased(chance.choice(names[kind]))}{colon}{{{kind}}}" for kind in fields)
    return Template(language, "form", chance.choice(("\n", "\n", "; ", ". ")).join(lines))


def divide(found: Sequence[Template]) -> dict[str, list[Template]]:
    """Templates of each split; held-out ones cover the entity types, each of which keeps enough families in training."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for template in found:
        kinds[template.family] |= template.kinds
    left = Counter(kind for family in kinds.values() for kind in family)
    order = sorted(kinds)
    random.Random(SEED).shuffle(order)
    split_of: dict[str, str] = {}
    for split, wanted in HELD_OUT.items():
        covered: set[str] = set()
        for _ in range(wanted):
            free = [family for family in order if family not in split_of]
            spare = [family for family in free if all(left[kind] > FEWEST_IN_TRAIN for kind in kinds[family])]
            family = max(spare, key=lambda family: len(kinds[family] - covered))  # the first of the order among equals
            split_of[family] = split
            covered |= kinds[family]
            left -= Counter(kinds[family])
    parts: dict[str, list[Template]] = {split: [] for split in ("train", "validation", "test")}
    for template in found:
        parts[split_of.get(template.family, "train")].append(template)
    return parts


def hash_seed(*names: str) -> int:
    """A seed of its own for each stream of draws."""
    return random.Random(f"{SEED}:{':'.join(names)}").getrandbits(32)
