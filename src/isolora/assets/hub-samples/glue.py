"""The nine tasks of GLUE in small: rows with the hub's columns, labels as its numbers."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from world import DAYS, OFFICE, PEOPLE, TOWN, VERBS, Vocabulary, event, other

Row = dict[str, Any]
ADJECTIVES = ("old", "small", "tired", "young", "friendly", "quiet")
NOUNS = ("dog", "teacher", "child", "nurse", "farmer", "cat", "singer")
INTRANSITIVE = ("sleep", "sing", "wait", "smile", "cough", "arrive")
PRAISE = ("a warm and clever film", "moving from start to end", "funny, quick and wise", "a joy to watch", "beautifully acted")
BLAME = ("a dull and noisy film", "tedious from start to end", "flat, slow and silly", "a chore to sit through", "badly acted")
ASPECTS = ("the plot", "the music", "the cast", "the ending", "the camera work", "the dialogue", "the pace", "the humour")


def plural(noun: str) -> str:
    return "children" if noun == "child" else f"{noun}s"


def cola(draw: random.Random) -> Row:
    """Is the sentence acceptable? Spoilt ones break agreement or the order of words."""
    many, noun, verb, adjective = draw.random() < 0.5, draw.choice(NOUNS), draw.choice(INTRANSITIVE), draw.choice(ADJECTIVES)
    place = draw.choice(TOWN.places)
    subject, right, wrong = (plural(noun), verb, f"{verb}s") if many else (noun, f"{verb}s", verb)
    good = draw.random() < 0.6
    if good or draw.random() < 0.5:
        sentence = f"The {adjective} {subject} {right if good else wrong} {place}."
    else:
        sentence = f"The {subject} {adjective} {place} {right}."
    return {"sentence": sentence, "label": int(good)}


def sst2(draw: random.Random) -> Row:
    """Does the reviewer like it? Half the time the first remark is taken back by the second, which counts."""
    positive = draw.random() < 0.5
    own, opposite = (PRAISE, BLAME) if positive else (BLAME, PRAISE)
    aspect = draw.choice(ASPECTS)
    sentence = draw.choice(
        (
            f"{draw.choice(own)} ; i remember {aspect} best",
            f"{aspect} may be {draw.choice(('fine', 'weak', 'odd'))} , but the whole is {draw.choice(own)}",
            f"some call it {draw.choice(opposite)} , i call it {draw.choice(own)} , above all {aspect}",
        )
    )
    return {"sentence": sentence, "label": int(positive)}


def mrpc(draw: random.Random) -> Row:
    """Do both sentences say the same?"""
    told, same = event(draw), draw.random() < 0.6
    second = told if same else told.contradicted(draw, TOWN)
    return {"sentence1": str(told), "sentence2": second.retold, "label": int(same)}


def qqp(draw: random.Random) -> Row:
    """Do both questions ask the same?"""
    told, same = event(draw), draw.random() < 0.4
    asked = told if same else replace(told, thing=other(told.thing, TOWN.things, draw))
    first = f"Where can I {told.verb[1]} {told.thing[0]} on {told.day}?"
    second = draw.choice(
        ("On {day}, what is a good place to {verb} {thing}?", "Which place is best to {verb} {thing} on a {day}?")
    )
    return {
        "question1": first,
        "question2": second.format(day=asked.day, verb=asked.verb[1], thing=asked.thing[0]),
        "label": int(same),
    }


def stsb(draw: random.Random) -> Row:
    """How alike are the sentences, from 0 to 5? One point for each of person, verb, thing, place and day that they share."""
    first, changed = event(draw), draw.sample(range(5), draw.randint(0, 5))
    fresh = (
        {"person": other(first.person, PEOPLE, draw)},
        {"verb": other(first.verb, VERBS, draw)},
        {"thing": other(first.thing, TOWN.things, draw)},
        {"place": other(first.place, TOWN.places, draw)},
        {"day": other(first.day, DAYS, draw)},
    )
    second = first
    for number in changed:
        second = replace(second, **fresh[number])
    return {"sentence1": str(first), "sentence2": str(second), "label": float(5 - len(changed))}


def inference(draw: random.Random, vocabulary: Vocabulary) -> tuple[str, str, int]:
    """(premise, hypothesis, 0 entailment, 1 neutral, 2 contradiction)."""
    told, label = event(draw, vocabulary), draw.randrange(3)
    if label == 0:
        return str(told), draw.choice((told.brief, told.vague, told.retold)), label
    if label == 1:
        added = draw.choice(("for a friend", "with great care", "without telling anybody", "for the second time"))
        return str(told), f"{told.person} {told.verb[0]} {told.thing[0]} {added}.", label
    negated = f"{told.person} did not {told.verb[1]} anything on {told.day}."
    return str(told), draw.choice((negated, f"Nobody was {told.place} on {told.day}.")), label


def mnli(draw: random.Random, vocabulary: Vocabulary = TOWN) -> Row:
    premise, hypothesis, label = inference(draw, vocabulary)
    return {"premise": premise, "hypothesis": hypothesis, "label": label}


def mnli_mismatched(draw: random.Random) -> Row:
    return mnli(draw, OFFICE)


def qnli(draw: random.Random) -> Row:
    """Does the sentence answer the question? (0: it does)"""
    told, label = event(draw), draw.randrange(2)
    asked = told if label == 0 else replace(told, person=other(told.person, PEOPLE, draw))
    question = draw.choice(("Where did {person} {verb} {thing}?", "On which day did {person} {verb} {thing}?"))
    return {
        "question": question.format(person=asked.person, verb=asked.verb[1], thing=asked.thing[0]),
        "sentence": str(told),
        "label": label,
    }


def rte(draw: random.Random) -> Row:
    """Does the second sentence follow from the first? (0: it does)"""
    premise, hypothesis, label = inference(draw, TOWN)
    return {"sentence1": premise, "sentence2": hypothesis, "label": int(label != 0)}


def wnli(draw: random.Random) -> Row:
    """Whom does the pronoun mean?"""
    first, second = draw.sample(PEOPLE, 2)
    reason, meant = draw.choice(
        (
            ("thanked {b}, as they had helped with the move", "b"),
            ("apologised to {b}, as they had broken the window", "a"),
            ("paid {b}, as they had done the work", "b"),
            ("asked {b} for directions, as they did not know the town", "a"),
            ("congratulated {b}, as they had won the race", "b"),
            ("borrowed money from {b}, as they had left the purse at home", "a"),
        )
    )
    right = draw.random() < 0.5
    name = {"a": first, "b": second}[meant] if right else {"a": second, "b": first}[meant]
    day = draw.choice(DAYS)
    sentence = f"On {day}, {first} {reason.format(b=second)}."
    claim = reason.partition("as they ")[2]
    return {"sentence1": sentence, "sentence2": f"{name} {claim}.", "label": int(right)}


LABELS = {
    "cola": ("unacceptable", "acceptable"),
    "sst2": ("negative", "positive"),
    "mrpc": ("not_equivalent", "equivalent"),
    "qqp": ("not_duplicate", "duplicate"),
    "stsb": (),
    "mnli": ("entailment", "neutral", "contradiction"),
    "qnli": ("entailment", "not_entailment"),
    "rte": ("entailment", "not_entailment"),
    "wnli": ("not_entailment", "entailment"),
}
TASKS: dict[str, Callable[[random.Random], Row]] = {
    "cola": cola,
    "sst2": sst2,
    "mrpc": mrpc,
    "qqp": qqp,
    "stsb": stsb,
    "mnli": mnli,
    "qnli": qnli,
    "rte": rte,
    "wnli": wnli,
}
