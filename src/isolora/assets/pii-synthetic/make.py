"""Make the data set `pii-synthetic`: invented people in hand-written templates, in the schema of ai4privacy/pii-masking-200k.

    python make.py

Needs Faker in the version below; equal versions give equal bytes.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faker
import pyarrow as pa
from pool import SLOT, Template, divide, form, hash_seed, kind_of, labels, templates
from values import LANGUAGES, Values

from isolora.assets.publish import publish

HERE = Path(__file__).parent
FAKER_VERSION = "40.54.0"
SIZES = {"train": 8_000, "validation": 1_000, "test": 1_000}
LOCALE_WEIGHTS = {"en_US": 0.3, "en_GB": 0.2, "de_DE": 0.17, "fr_FR": 0.17, "it_IT": 0.16}
FORM_SHARE = 0.25  # of the pieces of a training document: forms with random fields, which no held-out split has
PIECES = (1, 2, 3)  # templates in one document
PIECES_WEIGHTS = (0.5, 0.35, 0.15)

CHOICE = re.compile(r"\[([^\]]*)\]")  # one of several wordings
# Words keep what joins letters and digits inside them (addresses, dates, amounts); quotes, brackets and equals signs always part.
WORD = re.compile(r"\w+(?:[^\w\s'’=<>()\[\]{}\"|]+\w+)*|[^\w\s]")
BERT_WORD = re.compile(r"[^\W_]+|[^\w\s]|_")  # BERT's split before its word pieces
SPAN = pa.struct([("value", pa.string()), ("start", pa.int64()), ("end", pa.int64()), ("label", pa.string())])
SCHEMA = pa.schema(
    [
        ("source_text", pa.string()),
        ("target_text", pa.string()),
        ("privacy_mask", pa.list_(SPAN)),
        ("span_labels", pa.string()),
        ("mbert_text_tokens", pa.list_(pa.string())),
        ("mbert_bio_labels", pa.list_(pa.string())),
        ("id", pa.int64()),
        ("language", pa.string()),
        ("set", pa.string()),
        ("tokens", pa.list_(pa.string())),
        ("tags", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True)
class Span:
    value: str
    start: int
    end: int
    label: str


def fill(template: Template, values: Values) -> tuple[str, list[Span]]:
    """The text with a wording for each choice and a value in each slot, and where the values lie; a slot named twice gets one."""
    drawn: dict[str, str] = {}
    chosen = CHOICE.sub(lambda match: values.random.choice(match[1].split("|")), template.text)
    text, spans, position = "", [], 0
    for slot in SLOT.finditer(chosen):
        text += chosen[position : slot.start()]
        position = slot.end()
        value = drawn.setdefault(slot[1], values.draw(kind_of(slot[1])))
        spans.append(Span(value, len(text), len(text) + len(value), kind_of(slot[1])))
        text += value
    return text + chosen[position:], spans


def document(choice: Sequence[Template], values: Values) -> tuple[str, list[Span]]:
    """One to three templates, a line or a space apart."""
    text, spans = "", []
    for template in choice:
        if text:
            text += "\n" if "\n" in text + template.text else " "
        piece, found = fill(template, values)
        spans += [Span(span.value, span.start + len(text), span.end + len(text), span.label) for span in found]
        text += piece
    return text, spans


def tagged(text: str, spans: Sequence[Span], word: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """(words, BIO tags); every span starts and ends with a word."""
    words = list(word.finditer(text))
    tags = ["O"] * len(words)
    starts = {match.start(): number for number, match in enumerate(words)}
    ends = {match.end(): number for number, match in enumerate(words)}
    for span in spans:
        first, last = starts.get(span.start), ends.get(span.end)
        assert None not in (first, last), f"{span} is not a run of words in {text!r}"
        tags[first : last + 1] = [f"B-{span.label}", *[f"I-{span.label}"] * (last - first)]
    return [match[0] for match in words], tags


def masked(text: str, spans: Sequence[Span]) -> str:
    """The text with `[FIRSTNAME]` and the like in place of the values."""
    for span in reversed(spans):
        text = f"{text[: span.start]}[{span.label}]{text[span.end :]}"
    return text


def labelled_spans(text: str, spans: Sequence[Span]) -> str:
    """JSON of [start, end, label] over the whole text, `O` between the entities."""
    pieces, position = [], 0
    for span in spans:
        if position < span.start:
            pieces.append([position, span.start, "O"])
        pieces.append([span.start, span.end, span.label])
        position = span.end
    if position < len(text):
        pieces.append([position, len(text), "O"])
    return json.dumps(pieces)


def rows(split: str, pool: Sequence[Template], first_id: int) -> Iterator[dict[str, Any]]:
    """Documents of one split, each in one language."""
    values = {locale: Values(locale, hash_seed(split, locale)) for locale in LANGUAGES}
    names = {language: labels(language) for language in LANGUAGES.values()}
    chance = random.Random(hash_seed(split, "templates"))
    for number in range(SIZES[split]):
        locale = chance.choices([*LOCALE_WEIGHTS], [*LOCALE_WEIGHTS.values()])[0]
        language = LANGUAGES[locale]
        choice = chance.sample([template for template in pool if template.language == language], count_of_pieces(chance))
        if split == "train":
            choice = [form(names[language], language, chance) if chance.random() < FORM_SHARE else piece for piece in choice]
        text, spans = document(choice, values[locale])
        tokens, tags = tagged(text, spans, WORD)
        mbert_tokens, mbert_tags = tagged(text, spans, BERT_WORD)
        yield {
            "source_text": text,
            "target_text": masked(text, spans),
            "privacy_mask": [vars(span) for span in spans],
            "span_labels": labelled_spans(text, spans),
            "mbert_text_tokens": mbert_tokens,
            "mbert_bio_labels": mbert_tags,
            "id": first_id + number,
            "language": language,
            "set": split,
            "tokens": tokens,
            "tags": tags,
        }


def count_of_pieces(chance: random.Random) -> int:
    return chance.choices(PIECES, PIECES_WEIGHTS)[0]


def main() -> None:
    if faker.VERSION != FAKER_VERSION:
        raise SystemExit(f"needs Faker {FAKER_VERSION}, found {faker.VERSION}")
    pools = divide(templates())
    offsets = dict(zip(SIZES, (0, SIZES["train"], SIZES["train"] + SIZES["validation"]), strict=True))
    parts = {split: list(rows(split, pool, offsets[split])) for split, pool in pools.items()}
    counts = Counter(span["label"] for part in parts.values() for row in part for span in row["privacy_mask"])
    publish(
        HERE,
        parts,
        SCHEMA,
        version=FAKER_VERSION,
        templates=", ".join(f"{split} {len(pool)}" for split, pool in pools.items()),
        kinds=len(counts),
        words=f"{sum(len(row['tokens']) for part in parts.values() for row in part):,}",
        entities=f"{counts.total():,}",
        types=", ".join(f"{kind} {count:,}" for kind, count in counts.most_common()),
    )


if __name__ == "__main__":
    main()
