"""Make the data set `debian-conversations`: one to three questions about a package's description, answered from the data.

python make.py
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import AutoTokenizer

from isolora.assets.descriptions import chance, opening, shuffled
from isolora.assets.publish import publish

HERE = Path(__file__).parent
SIZES = {"train": 4_000, "validation": 400, "test": 400}
MOST_WORDS = 70  # of the description that is quoted
MOST_TOKENS = 236  # up to the first answer, which leaves room for the marks of a chat template
TURNS, TURNS_WEIGHTS = (1, 2, 3), (0.4, 0.35, 0.25)
SYSTEM_SHARE = 0.3
SYSTEMS = (
    "You answer questions about software packages.",
    "You are a helpful assistant for people who look for software.",
    "Answer briefly and only from what you are shown.",
)
LANGUAGES = {
    "gnu-r": "R",
    "golang": "Go",
    "haskell": "Haskell",
    "java": "Java",
    "javascript": "JavaScript",
    "lisp": "Lisp",
    "ocaml": "OCaml",
    "perl": "Perl",
    "php": "PHP",
    "python": "Python",
    "ruby": "Ruby",
    "rust": "Rust",
}
KINDS = {
    "doc": "It is documentation.",
    "fonts": "It is a font.",
    "games": "It is a game, or belongs to one.",
    "libdevel": "It holds what one needs to develop with a library.",
    "libs": "It is a shared library that other programs use.",
}
Row = dict[str, Any]


def line(row: Row) -> str:
    """The synopsis as a sentence."""
    return row["synopsis"][0].upper() + row["synopsis"][1:].rstrip(".") + "."


def asks_for_line(row: Row, draw: random.Random) -> tuple[str, str]:
    question = draw.choice(
        ("What is it, in one line?", "Sum that up in one line.", "Can you shorten this to a line?", "Give me a title for it.")
    )
    return question, line(row)


def asks_for_first_sentence(row: Row, draw: random.Random) -> tuple[str, str]:
    question = draw.choice(
        ("Quote the first sentence of the description.", "How does the description begin?", "Repeat only the opening sentence.")
    )
    return question, opening(row["description"], 1)


def asks_for_section(row: Row, draw: random.Random) -> tuple[str, str]:
    question = draw.choice(
        (
            "Which section of the archive is it in?",
            "Where would I find it in the archive?",
            "And the section?",
            "Name its section.",
        )
    )
    return question, draw.choice(("It is in the section {}.", "Section: {}.", "You find it under {}.")).format(row["section"])


def asks_for_language(row: Row, draw: random.Random) -> tuple[str, str]:
    question = draw.choice(("Which programming language is it for?", "Is it meant for one programming language?"))
    return question, f"It is for {LANGUAGES[row['section']]}."


def asks_for_kind(row: Row, draw: random.Random) -> tuple[str, str]:
    question = draw.choice(("What kind of package is that?", "Is it a program, a library or something else?"))
    return question, KINDS[row["section"]]


def asks_for_name(row: Row, draw: random.Random) -> tuple[str, str]:
    question = draw.choice(("What was its name again?", "And which package do I install?", "How is the package called?"))
    return question, draw.choice(("The package is called {}.", "Install {}.", "Its name is {}.")).format(row["package"])


def questions_about(row: Row) -> list[Callable[[Row, random.Random], tuple[str, str]]]:
    kinds = [asks_for_line, asks_for_first_sentence, asks_for_section, asks_for_name]
    if row["section"] in LANGUAGES:
        kinds.append(asks_for_language)
    if row["section"] in KINDS:
        kinds.append(asks_for_kind)
    return kinds


def conversation(row: Row, draw: random.Random) -> list[dict[str, str]]:
    """The user quotes the description and asks; what they ask next is answered from the same row."""
    quoted = opening(row["description"], MOST_WORDS)
    intro = draw.choice(
        (
            "This is the description of the package {package}:\n\n{quoted}\n\n{question}",
            "I found the package {package}. It says:\n\n{quoted}\n\n{question}",
            "{question}\n\nPackage: {package}\n{quoted}",
            "About {package}: {question}\n\n{quoted}",
        )
    )
    messages = [{"role": "system", "content": draw.choice(SYSTEMS)}] if draw.random() < SYSTEM_SHARE else []
    asked = draw.sample(questions_about(row), draw.choices(TURNS, TURNS_WEIGHTS)[0])
    for number, ask in enumerate(asked):
        question, answer = ask(row, draw)
        content = intro.format(package=row["package"], quoted=quoted, question=question) if number == 0 else question
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return messages


def fits(messages: list[dict[str, str]], tokenizer: Any) -> bool:
    """Whether the packaged models, whose shortest has 256 positions, see all of the first answer."""
    first = next(number for number, message in enumerate(messages) if message["role"] == "assistant")
    return len(tokenizer("\n".join(message["content"] for message in messages[: first + 1])).input_ids) <= MOST_TOKENS


def main() -> None:
    parts, tokenizer = {}, AutoTokenizer.from_pretrained(HERE.parent / "nano" / "nano-55k")
    for split, size in SIZES.items():
        draw = chance(split, "conversations")
        made = (
            {"messages": conversation(row, draw), "package": row["package"], "source": row["source"]}
            for row in shuffled(split, "conversations")
        )
        parts[split] = list(islice((row for row in made if fits(row["messages"], tokenizer)), size))
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema([("messages", pa.list_(message)), ("package", pa.string()), ("source", pa.string())])
    answers = sum(message["role"] == "assistant" for part in parts.values() for row in part for message in row["messages"])
    publish(HERE, parts, schema, answers=f"{answers:,}")


if __name__ == "__main__":
    main()
