"""Write the support tickets of `src/isolora_example/support_tickets`: sentences put together by chance, the same every time."""

from __future__ import annotations

import json
import random
from pathlib import Path

FOLDER = Path(__file__).parent / "src" / "isolora_example" / "support_tickets"
SENTENCES = {
    "billing": ["I was charged twice for {item}.", "The invoice for {item} shows the wrong sum.", "Please refund {item}."],
    "delivery": ["{item} has not arrived.", "The parcel with {item} went to my old address.", "Where is {item}?"],
    "account": ["I cannot log in any more.", "My password is refused since Monday.", "Please change my email address."],
    "quality": ["{item} broke on the first day.", "There is a crack in {item}.", "{item} smells of paint."],
}
NOTHING = ["Hello there.", "Thank you for your help last week.", "I only wanted to say that {item} is lovely."]
ITEMS = ["the kettle", "the blue chair", "my second lamp", "the winter coat", "the garden table", "the radio", "the bicycle pump"]
SPLITS = {"train": 400, "validation": 80, "test": 80}


def ticket(random: random.Random) -> dict[str, object]:
    """A text, and what it is about: none, one or more labels."""
    labels = sorted(random.sample(sorted(SENTENCES), random.choice([0, 1, 1, 1, 2, 2, 3])))
    parts = [random.choice(SENTENCES[label]) for label in labels] + [random.choice(NOTHING)] * (not labels)
    random.shuffle(parts)
    text = " ".join(part.format(item=random.choice(ITEMS)) for part in parts)
    return {"text": text[0].upper() + text[1:], "labels": labels}


def main() -> None:
    drawn = random.Random(0)
    for split, count in SPLITS.items():
        rows = [json.dumps(ticket(drawn)) + "\n" for _ in range(count)]
        (FOLDER / f"{split}.jsonl").write_text("".join(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
