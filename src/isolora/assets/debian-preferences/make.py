"""Make the data set `debian-preferences`: the maintainer's synopsis of a package against a spoilt one.

python make.py
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from isolora.assets.descriptions import chance, opening, shuffled
from isolora.assets.publish import publish

HERE = Path(__file__).parent
SIZES = {"train": 6_000, "validation": 500, "test": 500}
MOST_WORDS = 60  # of the description in the prompt
FEWEST_WORDS = 4  # of a synopsis that can be shuffled or cut
CORRUPTIONS, CORRUPTION_WEIGHTS = ("another package", "shuffled", "cut"), (0.5, 0.25, 0.25)
PROMPT = "Write the one-line synopsis of this software package.\n\nPackage: {package}\n{description}\n\nSynopsis:"
Row = dict[str, Any]


def corrupted(row: Row, kind: str, neighbours: Sequence[str], draw: random.Random) -> str:
    """Another package's synopsis from the same section, the words in another order, or their first half."""
    words = row["synopsis"].split()
    if kind == "another package":
        return draw.choice([synopsis for synopsis in neighbours if synopsis != row["synopsis"]])
    if kind == "cut":
        return " ".join(words[: len(words) // 2])
    order = words
    while order == words:
        order = draw.sample(words, len(words))
    return " ".join(order)


def pairs(split: str) -> Iterator[Row]:
    draw = chance(split, "preferences")
    rows = shuffled(split, "preferences")
    neighbours: Mapping[str, set[str]] = defaultdict(set)
    for row in rows:
        neighbours[row["section"]].add(row["synopsis"])
    usable = [row for row in rows if len(neighbours[row["section"]]) > 1]
    for row in usable[: SIZES[split]]:
        long_enough = len(set(row["synopsis"].split())) >= FEWEST_WORDS
        kind = draw.choices(CORRUPTIONS, CORRUPTION_WEIGHTS)[0] if long_enough else CORRUPTIONS[0]
        yield {
            "prompt": PROMPT.format(package=row["package"], description=opening(row["description"], MOST_WORDS)),
            "chosen": row["synopsis"],
            "rejected": corrupted(row, kind, sorted(neighbours[row["section"]]), draw),
            "corruption": kind,
            "package": row["package"],
            "source": row["source"],
        }


def main() -> None:
    parts = {split: list(pairs(split)) for split in SIZES}
    schema = pa.schema([(name, pa.string()) for name in parts["train"][0]])
    kinds = Counter(row["corruption"] for part in parts.values() for row in part)
    publish(HERE, parts, schema, kinds=", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common()))


if __name__ == "__main__":
    main()
