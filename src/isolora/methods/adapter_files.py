"""The files of an adapter by name, and how they are read: an adapter's folder may be a stranger's.

Only regular files are read, and no link is followed out of the folder. JSON is bounded in size and depth. Tensors are read from
safetensors alone: a pickle can run code, so a folder that has nothing else is refused.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from isolora.errors import DataError
from isolora.json_types import JsonObject

CONFIG, WEIGHTS, NEW_TOKENS = "adapter_config.json", "adapter_model.safetensors", "adapter_new_tokens.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
"""Endings of files that hold tensors in a form that can run code."""
MOST_JSON_BYTES = 32 * 2**20
"""AdaLoRA writes one truth value for each rank of each layer: a few MB for the largest models."""
DEEPEST = 32
"""Levels of nesting in a file of settings; ours have 4."""


def regular(path: Path) -> Path:
    """The same path, where a regular file lies there. Raises DataError where there is none, or a link leads out of its folder.

    The hub's cache is made of links from `snapshots/REVISION` to `blobs`; those are followed.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as failure:
        raise DataError(f"{path.parent}: no readable {path.name} ({_reason(failure)})") from None
    if not stat.S_ISREG(mode):
        raise DataError(f"{path.parent}: no readable {path.name} (not a regular file)")
    if leads_out(path):
        raise DataError(f"{path.parent}: no readable {path.name} (a link that leads out of the folder, to {path.resolve()})")
    return path


def leads_out(path: Path) -> bool:
    """Whether a link takes the file somewhere else than its folder or the blobs of a hub's snapshot."""
    folder = path.parent.resolve()
    inside = [folder, *([folder.parents[1] / "blobs"] if len(folder.parents) > 1 and folder.parent.name == "snapshots" else [])]
    return path.is_symlink() and not any(path.resolve().is_relative_to(place) for place in inside)


def _reason(failure: Exception) -> str:
    return str(getattr(failure, "strerror", None) or failure).splitlines()[0]


def read_json(path: Path) -> JsonObject:
    """An object from a JSON file. Raises DataError, naming the file and what is wrong with it."""
    size = regular(path).stat().st_size
    if size > MOST_JSON_BYTES:
        raise DataError(f"{path}: {size:,} bytes of settings (at most {MOST_JSON_BYTES:,})")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as failure:
        raise DataError(f"{path.parent}: no readable {path.name} ({_reason(failure)})") from None
    if not isinstance(found, dict):
        raise DataError(f"{path.parent}: no readable {path.name} (expected an object, found {type(found).__name__})")
    if _depth(found) > DEEPEST:
        raise DataError(f"{path.parent}: no readable {path.name} (more than {DEEPEST} levels of nesting)")
    if _has_half_characters(found):
        raise DataError(f"{path.parent}: no readable {path.name} (half of a character, which no file can hold)")
    return found


def _has_half_characters(value: object) -> bool:
    """Whether a text holds a lone surrogate, which JSON can spell and UTF-8 cannot: it would end whatever writes it again."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _depth(value: object) -> int:
    """Levels of nesting, as far as one too many."""
    level, depth = [value], 0
    while level and depth <= DEEPEST:
        level = [
            inner for one in level if isinstance(one, dict | list) for inner in (one.values() if isinstance(one, dict) else one)
        ]
        depth += 1
    return depth


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Name -> tensor of a safetensors file. Raises DataError where there is none that can be read."""
    refuse_pickles(path)
    try:
        return load_file(str(regular(path)))
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError, RuntimeError, OverflowError) as failure:
        if isinstance(failure, DataError):
            raise
        raise DataError(f"{path.parent}: no readable {path.name} ({_reason(failure)})") from None


def refuse_pickles(path: Path) -> None:
    """Raises DataError where pickles lie in place of the safetensors file."""
    if not path.parent.is_dir() or any(path.parent.glob(f"{path.stem}*.safetensors")):
        return
    if found := sorted(other.name for pattern in PICKLES for other in path.parent.glob(pattern)):
        raise DataError(
            f"{path.parent}: {found[0]} is a pickle, which can run code; isolora reads {path.name} (safetensors) alone"
        )


def saved_tensors(folder: Path) -> dict[str, Tensor]:
    """The adapter's own tensors."""
    return read_tensors(folder / WEIGHTS)


def all_tensors(folder: Path) -> dict[str, Tensor]:
    """Tensors of all of the folder's safetensors files."""
    return {name: tensor for path in tensor_files(folder) for name, tensor in read_tensors(path).items()}


def tensor_files(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("*.safetensors"))


def saved_settings(folder: Path) -> JsonObject:
    """What `adapter_config.json` says."""
    return read_json(folder / CONFIG)
