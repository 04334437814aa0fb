"""Damage adapters' folders at random, and read them in every way: an answer or a UserError must come, within 20 seconds.

    python benchmarks/damaged_adapters.py [COUNT] [SEED]

What failed is kept in FOLDER/failed for a look; tests/test_hostile_adapters.py holds what once did.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

SECONDS = 20.0
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


class TooSlowError(BaseException):
    """Past the time limit; no library catches it."""


@dataclass
class Findings:
    """What came of `tried` damaged folders. failures: (what was done to which folder, what was raised)."""

    tried: int = 0
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(default_factory=list)
    slowest: float = 0.0

    @property
    def passed(self) -> bool:
        return not self.failures and self.slowest <= SECONDS


def fuzz(count: int, seed: int = 0, kept: Path | None = None) -> Findings:
    """Damage `count` folders and read each. kept: where folders go that made something else than a UserError."""
    rng, found = random.Random(seed), Findings()
    with tempfile.TemporaryDirectory() as place:
        whole = make(Path(place) / "whole")
        for number in range(count):
            name, run = rng.choice(sorted(whole.items()))
            folder = Path(place) / "damaged"
            shutil.copytree(run, folder, symlinks=True)
            _point_to(folder / "adapter", folder / "model")
            done = [damage(folder, rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
            verb, read = rng.choice(READERS)
            before = len(found.failures)
            _try(found, f"{number}: {name}, {', '.join(done)}, {verb}", lambda read=read, folder=folder: read(folder))
            if kept is not None and len(found.failures) > before:
                shutil.copytree(folder, kept / str(number), symlinks=True, ignore=_fifos)
            shutil.rmtree(folder)
    return found


def _fifos(folder: str, names: list[str]) -> list[str]:
    """What cannot be copied."""
    return [name for name in names if (Path(folder) / name).is_fifo()]


def _try(found: Findings, what: str, read: Callable[[], Any]) -> None:
    from isolora.errors import UserError

    started, found.tried = time.monotonic(), found.tried + 1
    try:
        with _limit(SECONDS):
            read()
        found.answered += 1
    except UserError as refusal:
        found.refused[type(refusal).__name__] += 1
        if "\n" in str(refusal) or not str(refusal):
            found.failures.append((what, f"not one line: {refusal!r}"))
    except (Exception, TooSlowError) as failure:
        found.failures.append((what, f"{type(failure).__name__}: {' '.join(str(failure).split())[:300]}"))
        print(*found.failures[-1], sep="\n    ", flush=True)
    found.slowest = max(found.slowest, time.monotonic() - started)


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlowError(f"more than {seconds:.0f} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def make(folder: Path) -> dict[str, Path]:
    """Name of a method -> a folder with a trained adapter (`adapter`), its base (`model`) and its texts."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    import tiny

    from isolora.config import MethodConfig
    from isolora.training import train

    made = {}
    for name, fields in METHODS.items():
        place = folder / name.replace(":", "-")
        config = tiny.from_files(place, steps=2).model_copy(update={"method": MethodConfig(name=name, **fields)})
        train(config, place / "out", quiet=True)
        shutil.move(place / "out" / "adapter", place / "adapter")
        shutil.rmtree(place / "out")
        made[name] = place
    return made


def _point_to(adapter: Path, model: Path) -> None:
    """The copy's record names the copy of the base and of the texts."""
    record = json.loads((adapter / "isolora.json").read_text())
    text = json.dumps(record).replace(str(Path(record["config"]["model"]).parent), str(model.parent))
    (adapter / "isolora.json").write_text(text)


def damage(folder: Path, rng: random.Random) -> str:
    """Change one file of the adapter's folder or its base's; returns what was done, in words."""
    files = [path for pattern in FILES for where in ("adapter", "model") for path in sorted((folder / where).glob(pattern))]
    files = [path for path in files if path.is_file() and path.stat().st_size < 2**20]
    if not files:
        return "nothing left to damage"
    path = rng.choice(files)
    ways: list[Callable[[Path, random.Random], str]] = [_bytes, _place]
    ways += [_json] * 6 if path.suffix == ".json" else [_header, _tensors] * 3 if path.suffix == ".safetensors" else []
    return f"{path.parent.name}/{path.name} {rng.choice(ways)(path, rng)}"


def _bytes(path: Path, rng: random.Random) -> str:
    content = bytearray(path.read_bytes())
    at = rng.randrange(len(content) + 1)
    way = rng.choice(("cut", "flipped", "inserted", "emptied", "doubled", "utf-16", "noise", "deep"))
    changed = {
        "cut": bytes(content[:at]),
        "flipped": bytes(content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]),
        "inserted": bytes(content[:at]) + rng.randbytes(4) + bytes(content[at:]),
        "emptied": b"",
        "doubled": bytes(content) * 2,
        "utf-16": content.decode("latin-1").encode("utf-16"),
        "noise": rng.randbytes(200),
        "deep": b"[" * 20_000 + b"]" * 20_000,
    }[way]
    path.write_bytes(changed)
    return f"{way} at {at}"


def _place(path: Path, rng: random.Random) -> str:
    """Something else where the file was."""
    way = rng.choice(("gone", "folder", "fifo", "link out", "link to nothing", "link to itself", "pickle", "other file"))
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
        shutil.copy(rng.choice(others), path)
    return way


def _json(path: Path, rng: random.Random) -> str:
    """One value of the file for another."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return _bytes(path, rng)
    places = list(_places(whole))
    value = rng.choice(VALUES)
    if not places:
        path.write_text(json.dumps(value))
        return f"is {str(value)[:40]!r}"
    holder, key = rng.choice(places)
    way = rng.choice(("set", "set", "set", "removed", "added"))
    if way == "removed" and isinstance(holder, dict):
        del holder[key]
    elif way == "added" and isinstance(holder, dict):
        holder[key := rng.choice((*KEYS, "x", ""))] = value
    else:
        holder[key] = value
    path.write_text(json.dumps(whole))
    return f"{key!r} {way} {str(value)[:40]!r}"


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(what holds it, key) of every value inside."""
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, inner in pairs[:200]:
        yield value, key
        yield from _places(inner)


def _header(path: Path, rng: random.Random) -> str:
    """The head of a safetensors file: names, types, shapes and places of its tensors."""
    content = path.read_bytes()
    try:
        (length,) = struct.unpack("<Q", content[:8])
        head = json.loads(content[8 : 8 + length])
    except (struct.error, ValueError, RecursionError):
        return _bytes(path, rng)
    places = list(_places(head))
    if not places:
        return _bytes(path, rng)
    holder, key = rng.choice(places)
    value = rng.choice((*VALUES, "F16", "I64", "BOOL", "F8_E4M3", "C64", [2, 2], [0, 10**12], [10**9, 10**9]))
    holder[key] = value
    if rng.random() < 0.2 and isinstance(holder, dict):
        holder[rng.choice(("../x", "", "a" * 300))] = holder.pop(key)
    written = json.dumps(head).encode()
    claimed = rng.choice((len(written), len(written), len(written), 2**63, 0, len(written) + 8))
    path.write_bytes(struct.pack("<Q", claimed) + written + content[8 + length :])
    return f"header {key!r} set {str(value)[:40]!r}, length {claimed}"


def _tensors(path: Path, rng: random.Random) -> str:
    """Whole tensors: lost, added, of other shapes, types and values."""
    import torch
    from safetensors.torch import load_file, save_file

    try:
        tensors = load_file(str(path))
        name = rng.choice(sorted(tensors))
    except Exception:  # damaged before
        return _bytes(path, rng)
    tensor = tensors[name]
    way = rng.choice(
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
        tensors[name + rng.choice((".x", "/../x", ""))] = tensor.clone()
    if way in changed:
        tensors[name] = changed[way].clone().contiguous()
    save_file(tensors, str(path), metadata={"format": "pt"})
    return f"{name} {way}"


def _load(folder: Path) -> None:
    import isolora

    adapter = isolora.load(folder / "adapter")
    adapter.generate("w5 w7", max_new_tokens=2)


def _export(to: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        import isolora

        isolora.export(folder / "adapter", to, folder / "exported")

    return read


def _certify(folder: Path) -> None:
    from isolora.certify import certify

    certify(folder / "adapter")


def _evaluate(folder: Path) -> None:
    import isolora

    isolora.evaluate(folder / "adapter", repeats=0)


def _pool(folder: Path) -> None:
    import isolora

    isolora.AdapterPool({"a": folder / "adapter", "b": folder / "adapter"}).generate({"a": "w5", "b": "w7"})


READERS: tuple[tuple[str, Callable[[Path], None]], ...] = (
    ("load", _load),
    ("load", _load),
    ("export merged", _export("merged")),
    ("export peft", _export("peft")),
    ("certify", _certify),
    ("evaluate", _evaluate),
    ("pool", _pool),
)


@contextmanager
def one_process() -> Iterator[None]:
    """Certificates ask plain PEFT in this process: its start would take most of the time."""
    import torch

    from isolora.adapters import plain, round_trip

    def asked(request: Any) -> Any:
        model = plain.loaded(request["base"], request["auto_class"], request["options"], request["adapter"])
        return plain.scores(model, torch.tensor(request["ids"]))

    before, round_trip._asked = round_trip._asked, asked
    try:
        yield
    finally:
        round_trip._asked = before


def main() -> None:
    count, seed = (int(word) for word in (*sys.argv[1:], "200", "0")[:2]) if len(sys.argv) < 3 else map(int, sys.argv[1:3])
    warnings.simplefilter("ignore")
    with one_process():
        found = fuzz(count, seed, Path(tempfile.mkdtemp(prefix="fuzz-adapters-")))
    print(f"{found.tried} tried, {found.answered} answered, refused {dict(found.refused)}, slowest {found.slowest:.1f} s")
    raise SystemExit(0 if found.passed else 1)


if __name__ == "__main__":
    main()
