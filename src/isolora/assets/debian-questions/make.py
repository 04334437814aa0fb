"""Make the data set `debian-questions`: questions whose answers are spans of package descriptions, in the form of SQuAD v2.

python make.py
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from isolora.assets.descriptions import chance, opening, shuffled
from isolora.assets.publish import publish

HERE = Path(__file__).parent
SIZES = {"train": 4_000, "validation": 400, "test": 400}
MOST_WORDS = 130  # of a context
UNANSWERABLE_SHARE = 1 / 3
NAME = r"[A-Z][\w+-]*(?:[ .][A-Z][\w+-]*){0,3}"
CLAUSE = r"[^.,;:()\n]{6,90}?"  # up to the next stop; what goes on behind a comma would be cut short and is left alone
STOP = r"(?=\s*(?:[;()\n]|[.:](?:\s|$)|$))"


@dataclass(frozen=True)
class Kind:
    """A question, how its answer is found, and what a text must not mention for the question to be unanswerable."""

    name: str
    phrasings: tuple[str, ...]
    found: re.Pattern[str]
    hint: re.Pattern[str]


def kind(name: str, phrasings: str, found: str, hint: str) -> Kind:
    return Kind(name, tuple(phrasings.split(" / ")), re.compile(found), re.compile(hint, re.IGNORECASE))


LANGUAGE = (
    r"(?:Common Lisp|Emacs Lisp|Standard ML|Visual Basic|C\+\+|C#|Objective[- ]C|ANSI C|C(?![\w+#])|Python(?: \d)?|Perl(?: \d)?|"
    r"JavaScript|Java|Ruby|Haskell|OCaml|Rust|Golang|Go(?!\w)|Fortran(?: \d+)?|Tcl(?:/Tk)?|PHP|Lua|Scheme|Erlang|Vala|Bash|Lisp|"
    r"Scala|R(?!\w))"
)
KINDS = (
    kind(
        "language",
        "Which language is {it} written in? / In what language was {it} written? / What is the implementation language?",
        rf"(?:written|implemented|programmed) (?:\w+ )?in (?:pure |portable |standard |plain )?(?P<answer>{LANGUAGE})",
        r"written|implement|programmed",
    ),
    kind(
        "based on",
        "What is {it} based on? / On what is {it} built? / What does {it} build upon?",
        rf"(?:based|built) (?:up)?on (?:top of )?(?:the )?(?P<answer>{NAME})",
        r"\bbase[sd]?\b|built",
    ),
    kind(
        "wraps",
        "What is it a wrapper or binding for? / Which library does it give access to? / To what does {it} provide an interface?",
        rf"(?:wrapper|[Bb]indings?|interface) (?:around|for|to|of) (?:the )?(?P<answer>{NAME}|[a-z]\w+ library)\b",
        r"wrap|binding|interface",
    ),
    kind(
        "contains",
        "What does this package contain? / What is in this package? / What comes with the package?",
        rf"[Tt]his package (?:contains|provides|includes|ships) (?P<answer>{CLAUSE}){STOP}",
        r"contain|provides|includ|ships",
    ),
    kind(
        "author",
        "Who wrote {it}? / Who developed {it}? / Who is the author?",
        r"(?:written|developed|created|designed|invented) by (?P<answer>[A-Z][\w'-]+(?: [A-Z]\.)?(?: [A-Z][\w'-]+)+)(?! &)",
        r"\bby\b|author",
    ),
    kind(
        "is",
        "What is {it}? / How is {it} described? / What kind of thing is {it}?",
        rf"^(?P<subject>{NAME}) is (?P<answer>an? {CLAUSE}){STOP}",
        r".",  # every text says what it is about
    ),
    kind(
        "allows",
        "What does {it} allow one to do? / What can one do with {it}? / What does {it} make possible?",
        rf"(?:allows|lets|enables) (?:you|users|one|the user|developers|programmers)(?: to)? (?P<answer>{CLAUSE}){STOP}",
        r"allow|\blets?\b|enabl|\bcan\b",
    ),
    kind(
        "purpose",
        "What is {it} used for? / What is the purpose of {it}? / For what does one use {it}?",
        rf"\bused (?:to|for) (?P<answer>{CLAUSE}){STOP}",
        r"\buse[sd]?\b|\bfor\b",
    ),
    kind(
        "supports",
        "What does {it} support? / What is supported?",
        rf"\bsupports (?P<answer>{CLAUSE}){STOP}",
        r"support",
    ),
    kind(
        "RFC",
        "Which RFC is mentioned? / What is the number of the RFC?",
        r"(?P<answer>RFC[ -]?\d{3,4})",
        r"\bRFC",
    ),
)
ACRONYM = re.compile(r"(?P<answer>(?:[A-Z][\w-]+ ){1,5}[A-Z][\w-]+) \((?P<subject>[A-Z]{2,6})\)")
LONE_ACRONYM = re.compile(r"\b[A-Z]{3,5}\b")
ACRONYM_PHRASINGS = ("What does {it} stand for?", "What is {it} short for?", "What does the abbreviation {it} mean?")
Row = dict[str, Any]


@dataclass(frozen=True)
class Question:
    kind: str
    text: str
    answer: str = ""  # none: the context does not say
    start: int = -1


def answerable(context: str, package: str, draw: random.Random) -> Iterator[Question]:
    for kind in KINDS:
        if match := kind.found.search(context):
            it = match.groupdict().get("subject") or package
            yield Question(kind.name, draw.choice(kind.phrasings).format(it=it), match["answer"], match.start("answer"))
    for match in ACRONYM.finditer(context):
        words = re.split(r"[ -]", match["answer"])[-len(match["subject"]) :]
        if "".join(word[0] for word in words).upper() == match["subject"]:
            start = match.end("answer") - len(" ".join(words))
            if context[start : match.end("answer")] == " ".join(words):
                yield Question("acronym", draw.choice(ACRONYM_PHRASINGS).format(it=match["subject"]), " ".join(words), start)


def unanswerable(context: str, package: str, draw: random.Random) -> Iterator[Question]:
    """Questions of the same kinds to texts without a word that could hint at an answer; abbreviations that stay unexplained."""
    for kind in KINDS:
        if not kind.hint.search(context):
            yield Question(kind.name, draw.choice(kind.phrasings).format(it=package))
    for acronym in sorted(set(LONE_ACRONYM.findall(context))):
        if f"({acronym})" not in context and f"{acronym} (" not in context and "stand" not in context:
            yield Question("acronym", draw.choice(ACRONYM_PHRASINGS).format(it=acronym))


def questions(split: str) -> Iterator[Row]:
    """One question a description, answerable or not; the rarer kind of question goes first, so that kinds even out."""
    draw, asked = chance(split, "questions"), Counter[tuple[str, bool]]()
    for row in shuffled(split, "questions"):
        if asked.total() == SIZES[split]:
            return
        context = opening(row["description"], MOST_WORDS)
        silent = sum(count for (_, is_silent), count in asked.items() if is_silent) < UNANSWERABLE_SHARE * asked.total()
        found = list((unanswerable if silent else answerable)(context, row["package"], draw))
        if not found:
            continue
        question = min(found, key=lambda question: (asked[question.kind, silent], question.text))
        asked[question.kind, silent] += 1
        assert silent or context[question.start :].startswith(question.answer)
        yield {
            "id": hashlib.sha256(f"{row['package']}:{question.text}".encode()).hexdigest()[:24],
            "title": row["package"],
            "context": context,
            "question": question.text,
            "answers": {"text": [] if silent else [question.answer], "answer_start": [] if silent else [question.start]},
            "kind": question.kind,
            "source": row["source"],
        }


def main() -> None:
    parts = {split: list(questions(split)) for split in SIZES}
    strings = [(name, pa.string()) for name in ("id", "title", "context", "question")]
    answers = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])
    schema = pa.schema([*strings, ("answers", answers), ("kind", pa.string()), ("source", pa.string())])
    kinds = Counter(row["kind"] for part in parts.values() for row in part)
    silent = sum(not row["answers"]["text"] for part in parts.values() for row in part)
    listed = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common())
    publish(HERE, parts, schema, kinds=listed, silent=f"{silent / kinds.total():.0%}")


if __name__ == "__main__":
    main()
