"""News, summaries, instructions and questions about paragraphs, with the columns of cnn_dailymail, xsum, OpenOrca and SQuAD."""

from __future__ import annotations

import random
from typing import Any

from world import DAYS, PEOPLE, Event, events

Row = dict[str, Any]
FILLERS = (
    "The weather was mild and dry.",
    "A spokesperson declined to comment.",
    "Neighbours said they had seen nothing unusual.",
    "The council will discuss the matter next month.",
    "Shops stayed open until late.",
    "Nobody was hurt.",
    "Trains ran on time.",
    "Several visitors took photographs.",
)
SYSTEM_PROMPTS = (
    "",
    "You are a helpful assistant.",
    "You are an AI assistant. Think step by step and justify your answer.",
    "Answer in as few words as possible.",
)
SYNONYMS = (("happy", "glad"), ("big", "large"), ("quick", "fast"), ("begin", "start"), ("silent", "quiet"), ("wealthy", "rich"))


def news(draw: random.Random) -> tuple[list[Event], str]:
    """(the two events that matter, a report that opens with them and goes on)"""
    told = events(draw, 2)
    body = draw.sample(FILLERS, draw.randint(3, 5))
    body.insert(draw.randrange(len(body)), f"{told[0].person} and {told[1].person} have known each other since school.")
    return told, " ".join([told[0].retold, str(told[1]), *body])


def cnn_dailymail(draw: random.Random) -> Row:
    told, article = news(draw)
    return {"article": article, "highlights": "\n".join(item.brief.replace(".", " .") for item in told)}


def xsum(draw: random.Random) -> Row:
    told, document = news(draw)
    first, second = (f"{item.person} {item.verb[0]} {item.thing[0]}" for item in told)
    summary = f"{first}, while {second}."
    return {"document": document, "summary": summary}


def openorca(draw: random.Random) -> Row:
    question, response = draw.choice((sum_question, order_question, synonym_question, reading_question))(draw)
    return {"system_prompt": draw.choice(SYSTEM_PROMPTS), "question": question, "response": response}


def sum_question(draw: random.Random) -> tuple[str, str]:
    a, b = draw.randint(2, 60), draw.randint(2, 60)
    person = draw.choice(PEOPLE)
    return (
        f"{person} has {a} apples and picks {b} more. How many apples does {person} have?",
        f"{a} + {b} = {a + b}, so {a + b} apples.",
    )


def order_question(draw: random.Random) -> tuple[str, str]:
    names = draw.sample(PEOPLE, 4)
    return f"Put these names into alphabetical order: {', '.join(names)}", ", ".join(sorted(names))


def synonym_question(draw: random.Random) -> tuple[str, str]:
    word, same = draw.choice(SYNONYMS)
    asked, answer = (word, same) if draw.random() < 0.5 else (same, word)
    person = draw.choice(PEOPLE)
    return f'{person} needs another word for "{asked}". Which one would you propose?', f'"{answer}" means the same.'


def reading_question(draw: random.Random) -> tuple[str, str]:
    told = events(draw, 2)
    return f"{told[0]} {told[1]} Who {told[1].verb[0]} {told[1].thing[0]}?", f"{told[1].person}."


def asked(told: Event, draw: random.Random) -> tuple[str, str]:
    """(question, the words in the sentence that answer it)"""
    verb, thing = told.verb[1], told.thing[0]
    return draw.choice(
        (
            (f"Who {told.verb[0]} {thing}?", told.person),
            (f"What did {told.person} {verb} on {told.day}?", thing),
            (f"Where did {told.person} {verb} {thing}?", told.place),
            (f"On which day did {told.person} {verb} {thing}?", told.day),
        )
    )


def squad(draw: random.Random) -> Row:
    """A paragraph of four sentences with a question to one of them."""
    told = events(draw, 4)
    number = draw.randrange(len(told))
    question, answer = asked(told[number], draw)
    before = " ".join(str(item) for item in told[:number])
    start = len(before) + bool(before) + str(told[number]).index(answer)
    return {
        "title": f"Diary_of_a_{draw.choice(DAYS)}",
        "context": " ".join(map(str, told)),
        "question": question,
        "answers": {"text": [answer], "answer_start": [start]},
    }


def squad_v2(draw: random.Random) -> Row:
    """A third of the questions is about somebody of whom the paragraph says nothing."""
    row = squad(draw)
    if draw.random() > 1 / 3:
        return row
    stranger = draw.choice([person for person in PEOPLE if person not in row["context"]])
    told = events(draw, 1)[0]
    question = draw.choice((f"Where did {stranger} {told.verb[1]} {told.thing[0]}?", f"What did {stranger} {told.verb[1]}?"))
    return {**row, "question": question, "answers": {"text": [], "answer_start": []}}


def several_answers(row: Row) -> Row:
    """As three annotators would mark it: the answer again, and without its first word where that is an article or preposition."""
    if not row["answers"]["text"]:
        return row
    text, start = row["answers"]["text"][0], row["answers"]["answer_start"][0]
    head, _, rest = text.partition(" ")
    shorter, later = (rest, start + len(head) + 1) if rest else (text, start)
    return {**row, "answers": {"text": [text, text, shorter], "answer_start": [start, start, later]}}
