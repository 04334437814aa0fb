"""Sizes of base models that a table names without giving them: packaged facts, read as plain JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isolora.json_types import JsonMapping
from isolora.table.columns import Column

_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)([bBmM])(?![a-zA-Z0-9])")


def known_sizes(models: Iterable[str]) -> dict[str, float]:
    """Weights without the embeddings of those models that are known, by hub id, its last part or an older id."""
    wanted = {model.lower(): model for model in models}
    found: dict[str, float] = {}
    root = Path(str(resources.files("isolora"))) / "assets" / "architectures"
    for path in sorted(root.glob("*.json")):
        name = path.stem.replace("--", "/")
        facts = None
        for key in (name.lower(), name.lower().rpartition("/")[2]):
            if key in wanted:
                facts = facts or json.loads(path.read_text(encoding="utf-8"))
                found.setdefault(wanted[key], _body(facts))
    return found | {wanted[name]: _body_of_weights(weights) for name, weights in _packaged_weights().items() if name in wanted}


def _packaged_weights() -> dict[str, Path]:
    """Packaged base models whose weights lie here, by name."""
    root = Path(str(resources.files("isolora"))) / "assets" / "nano"
    return {path.parent.name: path for path in sorted(root.glob("*/model.safetensors"))}


def _body_of_weights(path: Path) -> float:
    """All weights of a safetensors file less its embeddings, from the header alone."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    shapes = {name: facts["shape"] for name, facts in header.items() if name != "__metadata__"}
    return float(sum(math.prod(shape) for name, shape in shapes.items() if "embed" not in name and "lm_head" not in name))


def filled_sizes(models: Column, sizes: Column | None) -> tuple[Column | None, str]:
    """The sizes with the missing ones filled, and what to say about it; as they were where a model is not known.

    A base's own size in other rows goes before what is known of it elsewhere.
    """
    given = np.full(len(models), np.nan) if sizes is None else sizes
    filled, said = _from_own_rows(models, given)
    missing_M = ~np.isfinite(filled)
    names = sorted({str(model) for model in models[missing_M]})
    known = known_sizes(names) if names else {}
    source = "was filled from packaged facts"
    if set(known) != set(names) and missing_M.all():
        known = {name: size for name in names if (size := size_in_name(name)) is not None}
        source = "is what the models' names say, embeddings included (--map n=COLUMN says otherwise)"
    if names and set(known) == set(names):
        full_M = np.array([known.get(str(model), np.nan) for model in models])
        filled = np.where(missing_M, full_M, filled)
        said.append(f"n{_of_rows(missing_M)} {source}: {_sizes_in_words(known)}")
    return (filled if said else sizes), "; ".join(said)


def _from_own_rows(models: Column, sizes: Column) -> tuple[Column, list[str]]:
    """Missing sizes from the other rows of the same base, where these agree; and what to say about it."""
    missing_M = ~np.isfinite(sizes)
    wanted = {str(model) for model in models[missing_M]}
    given: dict[str, set[float]] = {}
    for model, size in zip(models[~missing_M], sizes[~missing_M], strict=True):
        given.setdefault(str(model), set()).add(float(size))
    own = {model: min(found) for model, found in given.items() if model in wanted and len(found) == 1}
    own_M = np.array([own.get(str(model), np.nan) for model in models])
    filled_M = missing_M & np.isfinite(own_M)
    note = f"n{_of_rows(filled_M)} was filled from other rows of the same base: {_sizes_in_words(own)}"
    return np.where(filled_M, own_M, sizes), [note] if own else []


def _of_rows(chosen_M: NDArray[np.bool_]) -> str:
    return "" if chosen_M.all() else f" of {int(chosen_M.sum()):,} of {len(chosen_M):,} rows"


def _sizes_in_words(sizes: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {size:.3g}" for name, size in sizes.items())


def size_in_name(model: str) -> float | None:
    """Weights that a name such as `Qwen/Qwen2.5-3B` or `opt-125m` bears; None where it bears none, or several."""
    found = _SIZE.findall(model.rpartition("/")[2])
    return float(found[0][0]) * {"b": 1e9, "m": 1e6}[found[0][1].lower()] if len(found) == 1 else None


def name_without_size(model: str) -> str:
    """What a name says beside the size (`Qwen2.5` of `Qwen/Qwen2.5-3B`); empty where it bears none, or nothing else."""
    last = model.rpartition("/")[2]
    return re.sub(r"[-_ ]{2,}", "-", _SIZE.sub("", last)).strip("-_. ") if size_in_name(model) is not None else ""


def _body(facts: JsonMapping) -> float:
    """All weights less the embedding matrix, twice where input and output have one each."""
    shape = facts["config"]
    width = next((shape[key] for key in ("hidden_size", "d_model", "n_embd", "dim") if shape.get(key)), 0)
    matrices = 2 if shape.get("tie_word_embeddings") is False else 1
    return float(facts["parameters"] - matrices * shape.get("vocab_size", 0) * width)
