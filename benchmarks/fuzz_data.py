"""Data files: rows of every task in every format, with values, names, bytes and settings changed at random, then tokenised."""

from __future__ import annotations

import csv
import io
import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from isolora import data, models, registry
from isolora.config import DataConfig, RunConfig, TaskConfig, parse

TALK = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "good day"}]
ROWS: dict[str, dict[str, Any]] = {
    "causal-lm": {"text": "some words here"},
    "conversation": {"messages": TALK},
    "instruction": {"prompt": "a question", "completion": "its answer"},
    "summarization": {"document": "a long document", "summary": "short"},
    "preference": {"prompt": "which", "chosen": "this", "rejected": "that"},
    "sequence-classification": {"text": "some words", "label": "good"},
    "token-classification": {"tokens": ["Anna", "left"], "tags": ["B-PER", "O"]},
    "question-answering": {"question": "who", "context": "Anna left", "answers": {"text": ["Anna"], "answer_start": [0]}},
}
NASTY: list[Any] = [
    *(None, True, False, 0, -1, 7, 2**31, 2**63, 2**64, -(2**63) - 1, 0.0, 0.5, -100.0, float("nan"), float("inf"), 1e308),
    *(
        "",
        " ",
        "\n",
        "\x00",
        "\ud800",
        "é東😀",
        "\u200b",
        "\u0301",
        "x" * 20_000,
        "{{ x }}",
        "{x}",
        "O",
        "S-PER",
        "##ing",
        "<|endoftext|>",
    ),
    *(
        [],
        [1],
        ["a"],
        [None],
        [[]],
        [1, "x"],
        {},
        {"a": 1},
        {"a": None},
        [{"role": "user"}],
        [{"role": "user", "content": 3}],
        TALK,
    ),
    *([{"role": "system", "content": "s"}, *TALK], TALK[::-1], TALK * 3, [{"role": "assistant", "content": ""}], [*TALK, None]),
    *({"text": "Anna", "answer_start": 0}, {"text": ["Anna"], "answer_start": [0.0]}, {"text": ["x"], "answer_start": [10**12]}),
    *({"text": ["Anna"], "answer_start": None}, {"text": [], "answer_start": []}, '{"text": []}', "[[[[", b"bytes".hex()),
]
NAMES = [
    "text",
    "label",
    "meta.text",
    "a[0]",
    "{x}",
    "0",
    "",
    " ",
    "id",
    "tools",
    "system",
    "task",
    "é",
    "messages",
]
INTERNAL = ["isolora:row", "isolora:place"]
TEMPLATES = [
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
    "{% for m in messages %}{{ '[I]' + m.content + '[/I]' if m.role == 'user' else m.content + eos_token }}{% endfor %}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "{{ messages[0].content }}",
    "{{ raise_exception('no') }}",
    "{{ messages.x.y }}",
    "{{ 1 / 0 }}",
    "{% for m in messages %}{{ m.content[:3] }}{% endfor %}",
]
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "causal-lm": [{"packing": True}, {"stride": 3}],
    "conversation": [{"template": template} for template in TEMPLATES],
    "preference": [{"template": template} for template in TEMPLATES],
    "instruction": [{"template": "{{ x }}"}, {"template": "{{ prompt[0] }}"}, {"completion": "{{ prompt }}"}, {"template": "{{"}],
    "sequence-classification": [
        {"problem_type": "regression"},
        {"labels": ["good", "bad"]},
        {"glue": "stsb"},
        {"labels": ["1", "2"]},
    ],
    "token-classification": [{"scheme": "io"}, {"labels": ["O", "B-PER"]}, {"overlap": 0.9}],
}
FORMATS = ("jsonl", "csv", "tsv", "parquet", "txt", "md", "ndjson")


def attempt(random: Random, folder: Path) -> None:
    task = random.choice(list(ROWS))
    source = written(random, folder, task)
    settings = random.choice(SETTINGS.get(task, [{}])) if random.random() < 0.5 else {}
    config = parse(DataConfig, {"source": source, "eval_examples": random.choice((1, 5, 500)), **fields(task, random)})
    chosen = parse(TaskConfig, {"name": task, **settings})
    plain = registry.load_plug_in("task", task)
    unbound = plain.bound(plain.Settings(**chosen.fields()))
    splits = data.load_documents(config, unbound)
    bound = unbound.bound(
        unbound.settings, unbound.find_labels(splits.train), models.load_architecture(RunConfig(model="nano-55k"))
    )
    length, tokens = random.choice((1, 4, 16, 64)), tokenizer()
    for part in (splits.train, getattr(splits, config.eval_split)):
        kept, examples = data.make_examples(
            bound, part, lambda some: bound.examples(some, tokens, length), length, config.on_error == "skip"
        )
        assert len(examples) >= 1
        assert int(examples.label_counts.min()) > 0
        assert int(examples.lengths.max()) <= length
        assert len(examples.ids) == len(examples.labels)
        data.left_out_summary(kept.left_out or ("none",))


@cache
def tokenizer() -> Any:
    return models.load_tokenizer(RunConfig(model="nano-55k"))


def fields(task: str, random: Random) -> dict[str, Any]:
    """Settings of the data."""
    found: dict[str, Any] = {"on_error": random.choice(("stop", "skip")), "seed": random.choice((0, 1, 2**63 - 1))}
    if random.random() < 0.3:
        found |= {"streaming": True, "train_examples": random.choice((1, 5, 20))}
    elif random.random() < 0.3:
        found["train_examples"] = random.choice((1, 5, 10, 10, "small", 10**9))
    if random.random() < 0.2:
        found["text_field"] = random.choice(["text", *NAMES])
    if random.random() < 0.1:
        found["columns"] = {random.choice([*ROWS[task], "x"]): random.choice(NAMES)}
    if random.random() < 0.2:
        found["eval_split"] = "test"
    return found


def rows(task: str, random: Random) -> list[dict[str, Any]]:
    """Rows of a task, all different, some of which are spoiled."""
    chance = random.choice((0.0, 0.01, 0.05, 0.2))
    count = random.choice((0, 3, *[30] * 18))
    good = [{**ROWS[task], **({"label": random.choice(["good", "bad"])} if "label" in ROWS[task] else {})} for _ in range(count)]
    numbered = [
        {**row, **({"text": f"{row['text']} {number}"} if "text" in row else {"number": number})}
        for number, row in enumerate(good)
    ]
    return [spoiled(row, random, chance) for row in numbered]


def spoiled(row: dict[str, Any], random: Random, chance: float) -> dict[str, Any]:
    found = {name: within(value, random, chance) for name, value in row.items() if random.random() > chance / 5}
    if random.random() < chance / 2:
        found[random.choice(NAMES if random.random() < 0.99 else INTERNAL)] = random.choice(NASTY)
    return found


def within(value: Any, random: Random, chance: float) -> Any:
    """A value, or a part of it, that is another one."""
    if random.random() < chance / 2:
        return random.choice(NASTY)
    if isinstance(value, dict):
        return {name: within(part, random, chance) for name, part in value.items()}
    return [within(part, random, chance) for part in value] if isinstance(value, list) else value


def written(random: Random, folder: Path, task: str) -> str:
    """A source: one file, several behind a glob, or a folder with a file a split."""
    kind, ending = (
        random.choice(("file", "file", "glob", "folder")),
        random.choice(FORMATS[:4] if random.random() < 0.9 else FORMATS),
    )
    if kind == "file":
        return str(save(random, folder / f"a.{ending}", rows(task, random)))
    if kind == "glob":
        for number in range(2):
            save(random, folder / f"{number}.{ending if random.random() < 0.9 else random.choice(FORMATS)}", rows(task, random))
        return f"{folder}/{random.choice(('*', '*.*', '[01].*', '**'))}"
    others = random.sample(("validation", "test", "dev"), random.choice((0, 1, 1, 1, 2)))
    for split in [*(["train"] if random.random() < 0.9 else []), *others]:
        save(random, folder / f"{split}.{ending}", rows(task, random))
    if random.random() < 0.3:
        card = {
            random.choice(("text", "columns", "splits", "apart", "keep", "x")): random.choice(
                [*NASTY[16:], "{text}", {"a": {"b": "c"}}]
            )
        }
        (folder / "data.json").write_bytes(broken(json.dumps(card).encode(), random))
    return str(folder)


def save(random: Random, path: Path, found: list[dict[str, Any]]) -> Path:
    path.write_bytes(broken(encoded(random, path.suffix, found), random))
    return path


def encoded(random: Random, ending: str, found: list[dict[str, Any]]) -> bytes:
    if ending == ".parquet":
        return parquet(random, found)
    if ending in (".csv", ".tsv"):
        names = list(dict.fromkeys(name for row in found for name in row))
        text = io.StringIO()
        writer = csv.writer(text, delimiter=random.choice(",;\t|"))
        writer.writerow(names if random.random() < 0.9 else [*names, *names])
        writer.writerows([[row.get(name, "") for name in names] for row in found])
        return text.getvalue().encode("utf-8", "surrogatepass")
    if ending in (".txt", ".md"):
        return "\n\n".join(str(value) for row in found for value in row.values()).encode("utf-8", "surrogatepass")
    return "".join(json.dumps(row, ensure_ascii=random.random() < 0.5) + "\n" for row in found).encode("utf-8", "surrogatepass")


def parquet(random: Random, found: list[dict[str, Any]]) -> bytes:
    """Columns of several types; values that Arrow does not take are left out."""
    columns = {}
    for name in dict.fromkeys(name for row in found for name in row):
        try:
            columns[name] = cast(pa.array([row.get(name) for row in found]), random)
        except (pa.ArrowException, ValueError, OverflowError, TypeError):
            columns[name] = pa.array([str(number) for number in range(len(found))])
    columns = {name: column for name, column in columns.items() if not pa.types.is_nested(column.type) or written_alone(column)}
    sink = io.BytesIO()
    names = [name if random.random() > 0.03 else random.choice(NAMES) for name in columns]
    pq.write_table(pa.Table.from_arrays(list(columns.values()), names=names), sink)
    return sink.getvalue()


def written_alone(column: pa.Array) -> bool:
    """Whether Parquet has a form for it."""
    try:
        pq.write_table(pa.table({"a": column}), io.BytesIO())
    except pa.ArrowException:
        return False
    return True


def cast(column: pa.Array, random: Random) -> pa.Array:
    if pa.types.is_string(column.type) and random.random() < 0.5:
        kind = random.choice((pa.string_view(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())))
        return column.cast(kind)
    if pa.types.is_integer(column.type) and random.random() < 0.5:
        kind = random.choice(
            (pa.int8(), pa.float64(), pa.timestamp("s"), pa.date32(), pa.decimal128(38, 2), pa.uint64(), pa.duration("s"))
        )
        return column.cast(kind)
    return column


def broken(raw: bytes, random: Random) -> bytes:
    """Sometimes with some bytes cut out, doubled or replaced."""
    while raw and random.random() < 0.04:
        start = random.randrange(len(raw))
        piece = random.choice(
            (
                b"",
                raw[start : start + 40] * 2,
                b"\x00",
                b"\xff",
                b"\n",
                b'"',
                b",",
                b";",
                b"{",
                b"[" * 2000,
                b"9" * 40,
                b"\xef\xbb\xbf",
            )
        )
        raw = raw[:start] + piece + raw[start + random.randint(0, 40) :]
    return raw
