"""Adapters' folders: a file of the adapter or of its base damaged at random, then read in every way.

What it once found stands in tests/test_hostile_adapters.py.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import struct
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch

import isolora
from isolora.adapters import plain, round_trip
from isolora.certify import certify
from isolora.config import MethodConfig
from isolora.training import train

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 2},
    "adalora": {"init_rank": 4, "target_rank": 2},
    "prompt": {"virtual_tokens": 4},
    "prefix": {"virtual_tokens": 4},
    "p-tuning": {"virtual_tokens": 4},
    "llama-adapter": {"virtual_tokens": 4},
    "selective": {"train": "norms"},
    "bottleneck": {},
    "peft:VERA": {"r": 2},
    "peft:LORA": {"r": 2, "target_modules": ["q_proj"]},
    "peft:IA3": {},
}
HANGS = "(([a-z_.0-9]+)+)+#"
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 7, 10**9, 10**30, -(10**18), 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *(
        "",
        "x",
        "x" * 5000,
        "../../etc/passwd",
        "/etc/passwd",
        "~",
        "\0",
        "\ud800",
        "a\nb",
        HANGS,
        "{x}",
        "{{ x }}",
        "%s",
        "all-linear",
    ),
    *([], {}, [[]], [None], [1, 2], ["q_proj", "nope"], {"a": 1}, {"": {}}, {"q_proj": HANGS}, ["../x"], [HANGS]),
)
KEYS = (
    "rank_pattern",
    "modules_to_save",
    "target_modules",
    "exclude_modules",
    "layers_pattern",
    "init_lora_weights",
    "auto_map",
    "r",
)
FILES = ("*.json", "*.safetensors", "*.jinja", "*.md")


def attempt(random: Random, folder: Path) -> None:
    """Damage a copy of a trained adapter and of its base, and read it in one way."""
    kept = sound()
    name = random.choice(sorted(kept))
    shutil.copytree(kept[name], folder, symlinks=True, dirs_exist_ok=True)
    point_to(folder / "adapter", folder / "model")
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        damage(folder, random)
    read = random.choice(READERS)
    with plain_peft_here(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read(folder)


def prepare() -> None:
    """Adapters of all methods are trained before the first case is timed."""
    from transformers import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    sound()


@cache
def sound() -> dict[str, Path]:
    """Name of a method -> a folder with a trained adapter (`adapter`), its base (`model`) and its texts."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    import tiny

    place, made = Path(tempfile.mkdtemp(prefix="fuzz-adapters-")), {}
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    torch.set_num_threads(1)
    for name, fields in METHODS.items():
        folder = place / name.replace(":", "-")
        config = tiny.from_files(folder, steps=2).model_copy(update={"method": MethodConfig(name=name, **fields)})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            train(config, folder / "out", quiet=True)
        shutil.move(folder / "out" / "adapter", folder / "adapter")
        shutil.rmtree(folder / "out")
        made[name] = folder
    return made


def point_to(adapter: Path, model: Path) -> None:
    """The copy's record names the copy of the base and of the texts."""
    record = json.loads((adapter / "isolora.json").read_text())
    text = json.dumps(record).replace(str(Path(record["config"]["model"]).parent), str(model.parent))
    (adapter / "isolora.json").write_text(text)


def damage(folder: Path, random: Random) -> str:
    """Change one file of the adapter's folder or its base's; returns what was done, in words."""
    files = [path for pattern in FILES for where in ("adapter", "model") for path in sorted((folder / where).glob(pattern))]
    files = [path for path in files if path.is_file() and path.stat().st_size < 2**20]
    if not files:
        return "nothing left to damage"
    path = random.choice(files)
    ways: list[Callable[[Path, Random], str]] = [change_bytes, replace_file]
    ways += (
        [change_value] * 6
        if path.suffix == ".json"
        else [change_header, change_tensors] * 3
        if path.suffix == ".safetensors"
        else []
    )
    return f"{path.parent.name}/{path.name} {random.choice(ways)(path, random)}"


def change_bytes(path: Path, random: Random) -> str:
    content = bytearray(path.read_bytes())
    at = random.randrange(len(content) + 1)
    way = random.choice(("cut", "flipped", "inserted", "emptied", "doubled", "utf-16", "noise", "deep"))
    changed = {
        "cut": bytes(content[:at]),
        "flipped": bytes(content[:at] + bytes([random.randrange(256)]) + content[at + 1 :]),
        "inserted": bytes(content[:at]) + random.randbytes(4) + bytes(content[at:]),
        "emptied": b"",
        "doubled": bytes(content) * 2,
        "utf-16": content.decode("latin-1").encode("utf-16"),
        "noise": random.randbytes(200),
        "deep": b"[" * 20_000 + b"]" * 20_000,
    }[way]
    path.write_bytes(changed)
    return f"{way} at {at}"


def replace_file(path: Path, random: Random) -> str:
    """Something else where the file was."""
    way = random.choice(("gone", "folder", "fifo", "link out", "link to nothing", "link to itself", "pickle", "other file"))
    others = sorted(other for other in path.parent.iterdir() if other.is_file() and other != path)
    outside = path.parents[1] / "outside"
    outside.write_bytes(path.read_bytes())
    path.unlink()
    if way == "folder":
        path.mkdir()
    elif way == "fifo":
        os.mkfifo(path)
    elif way == "link out":
        path.symlink_to(outside)
    elif way == "link to nothing":
        path.symlink_to(path.parents[1] / "nothing")
    elif way == "link to itself":
        path.symlink_to(path)
    elif way == "pickle":
        outside.rename(path.with_suffix(".bin"))
    elif way == "other file" and others:
        shutil.copy(random.choice(others), path)
    return way


def change_value(path: Path, random: Random) -> str:
    """One value of the file for another."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return change_bytes(path, random)
    places = list(places_in(whole))
    value = random.choice(VALUES)
    if not places:
        path.write_text(json.dumps(value))
        return f"is {str(value)[:40]!r}"
    holder, key = random.choice(places)
    way = random.choice(("set", "set", "set", "removed", "added"))
    if way == "removed" and isinstance(holder, dict):
        del holder[key]
    elif way == "added" and isinstance(holder, dict):
        holder[key := random.choice((*KEYS, "x", ""))] = value
    else:
        holder[key] = value
    path.write_text(json.dumps(whole))
    return f"{key!r} {way} {str(value)[:40]!r}"


def places_in(value: Any) -> Iterator[tuple[Any, Any]]:
    """(what holds it, key) of every value inside."""
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, inner in pairs[:200]:
        yield value, key
        yield from places_in(inner)


def change_header(path: Path, random: Random) -> str:
    """The head of a safetensors file: names, types, shapes and places of its tensors."""
    content = path.read_bytes()
    try:
        (length,) = struct.unpack("<Q", content[:8])
        head = json.loads(content[8 : 8 + length])
    except (struct.error, ValueError, RecursionError):
        return change_bytes(path, random)
    places = list(places_in(head))
    if not places:
        return change_bytes(path, random)
    holder, key = random.choice(places)
    value = random.choice((*VALUES, "F16", "I64", "BOOL", "F8_E4M3", "C64", [2, 2], [0, 10**12], [10**9, 10**9]))
    holder[key] = value
    if random.random() < 0.2 and isinstance(holder, dict):
        holder[random.choice(("../x", "", "a" * 300))] = holder.pop(key)
    written = json.dumps(head).encode()
    claimed = random.choice((len(written), len(written), len(written), 2**63, 0, len(written) + 8))
    path.write_bytes(struct.pack("<Q", claimed) + written + content[8 + length :])
    return f"header {key!r} set {str(value)[:40]!r}, length {claimed}"


def change_tensors(path: Path, random: Random) -> str:
    """Whole tensors: lost, added, of other shapes, types and values."""
    from safetensors.torch import load_file, save_file

    try:
        tensors = load_file(str(path))
        name = random.choice(sorted(tensors))
    except Exception:  # damaged before
        return change_bytes(path, random)
    tensor = tensors[name]
    way = random.choice(
        ("lost", "renamed", "added", "nan", "inf", "int", "bool", "half", "double", "flat", "empty", "scalar", "longer")
    )
    changed = {
        "nan": torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor,
        "inf": torch.full_like(tensor, float("inf")) if tensor.is_floating_point() else tensor,
        "int": tensor.to(torch.int64),
        "bool": tensor.bool(),
        "half": tensor.half(),
        "double": tensor.double(),
        "flat": tensor.flatten(),
        "empty": tensor[:0] if tensor.dim() else tensor,
        "scalar": torch.tensor(1.0),
        "longer": torch.cat([tensor, tensor]) if tensor.dim() else tensor,
    }
    if way in ("lost", "renamed"):
        del tensors[name]
    if way in ("added", "renamed"):
        tensors[name + random.choice((".x", "/../x", ""))] = tensor.clone()
    if way in changed:
        tensors[name] = changed[way].clone().contiguous()
    save_file(tensors, str(path), metadata={"format": "pt"})
    return f"{name} {way}"


def load(folder: Path) -> None:
    isolora.load(folder / "adapter").generate("w5 w7", max_new_tokens=2)


def export(to: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        isolora.export(folder / "adapter", to, folder / "exported")

    return read


def prove(folder: Path) -> None:
    certify(folder / "adapter")


def evaluate(folder: Path) -> None:
    isolora.evaluate(folder / "adapter", repeats=0)


def pool(folder: Path) -> None:
    isolora.AdapterPool({"a": folder / "adapter", "b": folder / "adapter"}).generate({"a": "w5", "b": "w7"})


READERS: tuple[Callable[[Path], None], ...] = (load, load, export("merged"), export("peft"), prove, evaluate, pool)


@contextmanager
def plain_peft_here() -> Iterator[None]:
    """Certificates ask plain PEFT in this process: the start of another would take most of the time."""

    def asked(request: Any) -> Any:
        model = plain.loaded(request["base"], request["auto_class"], request["options"], request["adapter"])
        return plain.plain_scores(model, torch.tensor(request["ids"]))

    before, round_trip._asked = round_trip._asked, asked
    try:
        yield
    finally:
        round_trip._asked = before
