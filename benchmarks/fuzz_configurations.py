"""Configurations: YAML files of runs and studies with keys and values changed at random, and `key=value` words."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import yaml

from isolora.config import load_run, load_study, with_word
from isolora.registry import names

NASTY: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, 0.0, -0.5, 0.5, 1e-300, 1e300),
    *(
        float("nan"),
        float("inf"),
        "",
        " ",
        "0",
        "1e6",
        "null",
        "yes",
        "a",
        "lora",
        "nano-55k",
        "small",
        "\x00",
        "\ud7ff",
        "é東😀",
    ),
    *(
        "x" * 300,
        "{{",
        "{{ x }}",
        "../..",
        "~nobody/x",
        "/dev/null",
        "[",
        "*",
        "%s",
        "{0.__class__}",
        "\n",
        "a\nb",
        "-",
        "${HOME}",
    ),
    *(
        [],
        [1],
        ["a"],
        [[]],
        [None],
        {},
        {"a": 1},
        {"name": "lora"},
        {"name": 3},
        {1: 2},
        {"": ""},
        {None: None},
        [{"source": "a"}],
    ),
]
TEXTS = [
    *(
        "a: 1\na: 2",
        "seed: 2020-13-45",
        "seed: !!int x",
        "data: &a [*a]",
        "!!map [a]",
        "? [a]\n: b",
        "[" * 2000,
        "- a",
        "a",
        "",
        "\x00",
    ),
    *(
        "data: !!python/object:os.system x",
        "data: {<<: 3}",
        "seed: 0o9",
        "seed: 1_0",
        "seed: 12:30:45",
        "a: *b",
        "%YAML 9.9\n---\na: 1",
    ),
    *(
        "--- a\n--- b",
        "seed: !!float x",
        "seed: !!timestamp x",
        "seed: !!binary x",
        "data: !!set {a, b}",
        "data: !!omap [a]",
        "\t",
    ),
    "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: &d [*c, *c]\ndata: {columns: {x: *d}}",
]
RUN: dict[str, Any] = {
    "model": "nano-55k",
    "task": {"name": "causal-lm", "packing": False},
    "data": {
        "source": "debian-descriptions",
        "train_examples": 100,
        "max_length": 64,
        "mix": [{"source": "general-english", "share": 0.2}],
    },
    "method": {"name": "lora", "rank": 4, "targets": "all-linear"},
    "training": {"tokens": 1000, "batch_tokens": 256},
    "new_tokens": ["<a>"],
    "forgetting": {"examples": 3},
    "seed": 0,
}
STUDY: dict[str, Any] = {
    "name": "s",
    "base": RUN,
    "grid": {"method.rank": [1, 2], "training.tokens": [100, 200]},
    "stack": 2,
}


def attempt(random: Random, folder: Path) -> None:
    kind = random.choice(("run", "study", "word", "text"))
    if kind == "word":
        load_run(None, [word(random) for _ in range(random.randint(1, 3))])
        return
    path = folder / "given.yaml"
    given = changed(STUDY if kind == "study" else with_names(RUN, random), random, random.choice((0.0, 0.02, 0.15)))
    text = random.choice(TEXTS) if kind == "text" else yaml.safe_dump(given, allow_unicode=True)
    path.write_bytes(broken(text, random).encode("utf-8", "surrogatepass"))
    (load_study if kind == "study" else load_run)(path)


def with_names(given: dict[str, Any], random: Random) -> dict[str, Any]:
    """Any task and any method, most of them with settings that they do not know."""
    pick = {"task": random.choice(list(names("task"))), "method": random.choice(list(names("method")))}
    return {**given, **(pick if random.random() < 0.7 else {})}


def word(random: Random) -> str:
    path = ".".join(
        random.choice(list(RUN)) if place == 0 else random.choice((*leaves(RUN), "x", ""))
        for place in range(random.randint(1, 3))
    )
    value = random.choice(NASTY)
    with_word({}, f"{path}={value}")
    return f"{path}={value}"


def leaves(given: Any) -> list[str]:
    return [str(key) for value in given.values() if isinstance(value, dict) for key in value]


def changed(given: Any, random: Random, chance: float) -> Any:
    """A copy in which some values, keys and members are others."""
    if random.random() < chance / 3:
        return random.choice(NASTY)
    if isinstance(given, dict):
        kept = {key: changed(value, random, chance) for key, value in given.items() if random.random() > chance / 4}
        extra = (
            {random.choice(["x", "", "name", "rank", 3, "tokens", "epochs"]): random.choice(NASTY)}
            if random.random() < chance / 2
            else {}
        )
        return {**kept, **extra}
    if isinstance(given, list):
        return [changed(value, random, chance) for value in given] * random.choice((1, 1, 1, 2, 0))
    return random.choice(NASTY) if random.random() < chance else given


def broken(text: str, random: Random) -> str:
    """Sometimes with some characters cut out, doubled or replaced."""
    while text and random.random() < 0.1:
        start = random.randrange(len(text))
        piece = random.choice(("", text[start : start + 9] * 2, *"\x00:{[&*!|>'\"#%@`\t-?,", "\n", "é", "9" * 30))
        text = text[:start] + piece + text[start + random.randint(0, 9) :]
    return text
