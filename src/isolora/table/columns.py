"""What columns are called: canonical names, the short ones of the laws, and what other people
write for them, in any case; and cells that are missing: which rows and columns they take out of a table, in words."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isolora.errors import TableError, in_brief, unknown
from isolora.table.differences import MEASURED_ON, SETTINGS

Column = NDArray[Any]
Rows = Mapping[str, list[Any]]

SHORT_NAMES = {"n": "body_parameters", "d": "tokens", "p": "trainable_parameters", "u": "unique_tokens", "c": "flops"}
TEXT_COLUMNS = (
    *("run", "model", "family", "base_kind", "method", "task", "schedule"),
    *("state", "stage", "metrics", "config", MEASURED_ON, SETTINGS),
)
ALIASES: Mapping[str, tuple[str, ...]] = {
    "loss": (
        *("eval loss", "val loss", "validation loss", "valid loss", "test loss", "held out loss", "loss eval"),
        *("final loss", "nll"),
    ),
    "tokens": (
        *("num tokens", "n tokens", "train tokens", "training tokens", "tokens seen", "total tokens", "consumed tokens"),
        "num input tokens seen",
    ),
    "body_parameters": (
        *("params", "parameters", "num params", "n params", "num parameters", "n parameters", "model size", "size"),
        *("non embedding params", "non embedding parameters", "total params", "total parameters"),
    ),
    "trainable_parameters": ("trainable params", "num trainable params", "num trainable parameters", "trainable"),
    "unique_tokens": ("num unique tokens", "tokens unique"),
    "unique_examples": ("examples", "num examples", "train examples"),
    "flops": ("compute", "total flops", "train flops", "training flops", "total flos", "flop"),
    "learning_rate": ("lr", "train learning rate", "peak lr", "max lr"),
    "seconds": ("time", "train time", "runtime", "train runtime", "wall time", "duration", "elapsed time"),
    "rank": ("r", "lora r", "lora rank", "method rank"),
    "method": ("peft type", "adapter", "adapter type", "peft method", "method name"),
    "model": (*("model name", "base model", "base model name or path", "model name or path", "model id", "name or path"),),
    "schedule": ("lr scheduler type", "lr scheduler", "lr schedule", "learning rate schedule", "training schedule"),
    "family": ("model family", "scaling family"),
    "run": ("run id", "run name", "experiment", "experiment name", "name"),
}
"""Canonical name -> what else it is called, lower case, words apart."""
KNOWN_NAMES = (*SHORT_NAMES, *SHORT_NAMES.values(), *ALIASES, "seed", "peak_memory_bytes", "forgetting", "task", "passes", "step")
_ALIKE = 0.75
_HELD_OUT = ALIASES["loss"][:7]
"""Names of a loss that say that it is held out."""
_COUNTED = ("tokens", "flops", "seconds")
"""What trackers log below `train/`, too."""
_QUANTITIES = (
    *("loss", "flops", *SHORT_NAMES.values(), "learning_rate", "seconds", "rank"),
    *("forgetting", "peak_memory_bytes", "unique_examples"),
)
"""Columns that are computed with: one that holds anything else is refused in a line."""
_SCALES = {"": 1.0, "%": 0.01, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_NUMBER = re.compile(
    r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([kmbgt%]?)\s*(?:params?|parameters|weights|tokens?|flops?)?", re.IGNORECASE
)
_CLOCK = re.compile(r"(?:(\d+) days?,? )?(\d+):([0-5]?\d):([0-5]?\d(?:\.\d+)?)")
_TIMES = {
    "s": 1.0,
    "sec": 1.0,
    "seconds": 1.0,
    "m": 60.0,
    "min": 60.0,
    "minutes": 60.0,
    "h": 3600.0,
    "hours": 3600.0,
    "d": 86400.0,
}
_TIME = re.compile(rf"(\d+\.?\d*|\.\d+)\s*({'|'.join(_TIMES)})", re.IGNORECASE)
"""Of a column of times an `m` is a minute, not a million."""
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?")
_ABSENT = ("", "nan", "na", "n/a", "none", "null", "-")
MEASURE_COLUMNS = ("task", "task.name", "task_name", "dataset", "dataset_name", "data.source", "eval_dataset", "eval_split")
"""Columns of text, in any case, that say what a loss was measured on."""
_COMPUTED = {
    "tokens": ("d = flops/(6n)", re.compile(r"flops\s*/\s*\(?\s*6\s*\*?\s*n\s*\)?", re.IGNORECASE)),
    "flops": ("c = 6nd", re.compile(r"6\s*\*?\s*n\s*\*?\s*d", re.IGNORECASE)),
}


NAMES = ("run", "model", "method", "family")
"""Columns of names."""
PLACES = ("tokens", "body_parameters")
"""A point that lacks one of these is at no known place; without another quantity it is of use to laws that do not read that."""


def renamed(rows: Rows, mapping: Mapping[str, str]) -> tuple[dict[str, list[Any]], list[str], frozenset[str]]:
    """Canonical name -> values, a sentence for every column that was recognised under another name, and all such columns.

    Mapped columns win, then those of that very name, then the laws' short names in either case, then known aliases; but a loss
    that says that it is held out wins over a plain one, which is the training's then.
    """
    named, notes = _mapped(rows, mapping), list[str]()
    used = set(mapping.values())
    if "loss" in rows and "loss" not in named and (held_out := _held_out_loss(rows)):
        used.add(held_out)
        named |= {"loss": rows[held_out], "train_loss": rows.get("train_loss", rows["loss"])}
        notes.append(
            f"column {held_out!r} was read as loss, and 'loss' beside it as the loss in training (--map loss=loss says otherwise)"
        )
    for column, values in rows.items():
        if column not in SHORT_NAMES:
            named.setdefault(column, values)
    for column, values in rows.items():
        meant = canonical_name(column)
        if meant and meant not in named and (meant not in _QUANTITIES or no_number(values, meant) is None):
            named[meant] = values
            used.add(column)
            if column not in SHORT_NAMES:
                notes.append(f"column {column!r} was read as {meant}")
    return named, notes, frozenset(used)


def unread(rows: Rows, named: Iterable[str]) -> dict[str, str]:
    """Canonical name -> why the column that is called so was not read as it."""
    found: dict[str, str] = {}
    for column, values in rows.items():
        meant = canonical_name(column)
        if meant in _QUANTITIES and meant not in named and (wrong := no_number(values, meant)) is not None:
            found[meant] = f"column {column!r} was not read as {meant}: {wrong} is no number"
    return found


def no_number(values: Iterable[object], name: str = "") -> str | None:
    """The first value that is no number, quoted; None where all are. name: the column's canonical one."""
    parse = _parser(name)
    return next((in_brief(repr(value)) for value in values if parse(value) is None), None)


def _parser(name: str) -> Callable[[object], float | None]:
    return parse_seconds if name == "seconds" else parse_number


def _mapped(rows: Rows, mapping: Mapping[str, str]) -> dict[str, list[Any]]:
    """The mapped columns by canonical name. Raises TableError for a column that is none, and for a name that is nearly one."""
    named: dict[str, list[Any]] = {}
    for name, column in mapping.items():
        canonical = SHORT_NAMES.get(name, name)
        if _is_computed(canonical, column):
            continue
        if canonical not in KNOWN_NAMES and (meant := get_close_matches(canonical, KNOWN_NAMES, 1, _ALIKE)):
            raise TableError(f"--map: {name!r} is no name that laws know; did you mean {meant[0]!r}?")
        if column not in rows:
            raise TableError(unknown(f"column for {name!r} in the mapping:", column, rows))
        named[canonical] = rows[column]
    return named


def _held_out_loss(rows: Rows) -> str:
    """A column that is called a held-out loss, as the Trainer of transformers has it beside its `loss`; empty where none is."""
    known = [column for column, values in rows.items() if _words(column) in _HELD_OUT and no_number(values) is None]
    return known[0] if known else ""


def canonical_name(column: str) -> str | None:
    """The name that a column stands for; None where none is known."""
    if column.lower() in SHORT_NAMES:
        return SHORT_NAMES[column.lower()]
    words = _words(_UNIT.sub("", column))
    for canonical, others in ALIASES.items():
        names = (canonical.replace("_", " "), *others)
        if words in names or (canonical in _COUNTED and words.removeprefix("train ") in names):
            return canonical
    return None


_UNIT = re.compile(r"(?<=\w)\s*[(\[](flops?|tokens|nats|nats per token|nats/token)[)\]]\s*$", re.IGNORECASE)
"""Units behind a name that change no number, as in `Compute (FLOPs)`; `(billions)` would."""


def _words(column: str) -> str:
    """A column's name in lower case, words apart."""
    return " ".join(re.sub(r"[^0-9a-z]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column).lower()).split())


def _is_computed(canonical: str, asked: str) -> bool:
    return canonical in _COMPUTED and _COMPUTED[canonical][1].fullmatch(asked.strip()) is not None


def computed(named: Mapping[str, Column], mapping: Mapping[str, str]) -> dict[str, Column]:
    """Tokens as `flops / (6 n)`, or FLOPs as `6 n d` (Kaplan et al. 2001.08361: full training, no attention scores), where the
    mapping asks for that. Raises TableError when a column for it is missing."""
    asked = {SHORT_NAMES.get(name, name): column for name, column in mapping.items()}
    wanted = [name for name, column in asked.items() if _is_computed(name, column)]
    if not wanted:
        return {}
    if len(wanted) > 1:
        raise TableError("d = flops/(6n) and c = 6nd compute one from the other; map one of them to a column")
    (target,) = wanted
    other, short = ("flops", "flops") if target == "tokens" else ("tokens", "d")
    for name, column in ((short, other), ("n", "body_parameters")):
        if column not in named:
            raise TableError(f"{_COMPUTED[target][0]} needs a column {name}; map one with --map {name}=COLUMN")
    six = 6 * named["body_parameters"]
    return {target: named["flops"] / six if target == "tokens" else six * named["tokens"]}


def typed(name: str, values: Iterable[object]) -> Column:
    """Numbers as float64, NaN where absent, `1.0B` and `350M` understood; everything else as text. Raises TableError where a
    column must hold numbers."""
    listed = list(values)
    if name in TEXT_COLUMNS:
        return np.array(["" if _is_blank(value) else str(value) for value in listed], dtype=object)
    numbers = list(map(_parser(name), listed))
    wrong = [value for value, found in zip(listed, numbers, strict=True) if found is None]
    if not wrong:
        return np.array(numbers, dtype=float)
    if name in _QUANTITIES:
        raise TableError(f"column {name!r} must hold numbers; it holds {in_brief(repr(wrong[0]))}")
    return np.array(["" if _is_blank(value) else str(value) for value in listed], dtype=object)


def _is_blank(value: object) -> bool:
    """Whether a cell of text is empty, as each kind of table says it."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def without_empty_texts(columns: Mapping[str, Column]) -> tuple[dict[str, Column], list[str]]:
    """(the columns less those of names that name nothing, sentences about these)."""
    empty = [name for name in NAMES if name in columns and not any(columns[name])]
    kept = {name: values for name, values in columns.items() if name not in empty}
    return kept, [f"column {name} holds no text" for name in empty]


def parse_number(value: object) -> float | None:
    """A number as people write it; None for what is none."""
    if value is None:
        return float("nan")
    if isinstance(value, int | float | np.number):
        return _as_float(value)
    text = str(value).strip()
    if text.lower() in _ABSENT:
        return float("nan")
    if text.lower().lstrip("+-") in ("inf", "infinity"):
        return float(text)
    text = text.replace(",", "") if _THOUSANDS.fullmatch(text) else text.replace(",", ".", 1)
    found = _NUMBER.fullmatch(text)
    return float(found[1]) * _SCALES[found[2].lower()] if found else None


def parse_seconds(value: object) -> float | None:
    """A time as people write it: seconds, `0:01:30`, `1 day, 2:00:00`, `90s`, `1.5h`; None for what is none."""
    if isinstance(value, int | float | np.number) or (found := _CLOCK.fullmatch(str(value).strip())) is None:
        unit = _TIME.fullmatch(str(value).strip())
        return float(unit[1]) * _TIMES[unit[2].lower()] if unit else parse_number(value)
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _as_float(value: float | np.number[Any]) -> float:
    """Whole numbers beyond a float's range are infinite, as `1e999` is."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def without_gaps(columns: Mapping[str, Column]) -> tuple[dict[str, Column], dict[str, int], list[str]]:
    """(the columns at the rows whose place is known, how many rows were left out by reason, sentences about unused columns).

    One row without its size must not take the size from all others: the law would then be one for all sizes, without a word.
    """
    kept, left_out, notes = dict(columns), dict[str, int](), list[str]()
    for name in [name for name in SHORT_NAMES.values() if name in kept and not np.isfinite(kept[name]).any()]:
        del kept[name]
        notes.append(f"column {name} holds no number")
    for name in [name for name in PLACES if name in kept]:
        known_M = np.isfinite(kept[name])
        if not known_M.all():
            left_out[f"no {name}"] = int((~known_M).sum())
            kept = {other: values[known_M] for other, values in kept.items()}
    if "method" in kept and not (named_M := kept["method"].astype(bool)).all():
        left_out["no method"] = int((~named_M).sum())
        kept = {other: values[named_M] for other, values in kept.items()}
    return kept, left_out, notes + _unused(kept)


_PRICES = {"flops": " (plans price by it all the same)"}


def _unused(columns: Mapping[str, Column]) -> list[str]:
    """Quantities that some trained points lack: no law reads them."""
    count = len(next(iter(columns.values())))
    trained_M: NDArray[np.bool_] = columns["tokens"] > 0 if "tokens" in columns else np.ones(count, dtype=bool)
    found = []
    for name in [name for name in SHORT_NAMES.values() if name in columns and name not in PLACES]:
        absent = int((~(np.isfinite(columns[name]) & (columns[name] > 0)) & trained_M).sum())
        if absent:
            found.append(
                f"no law reads column {name}: {absent} of {int(trained_M.sum())} points have none{_PRICES.get(name, '')}"
            )
    return found


def repeated_rows(columns: Mapping[str, Column]) -> NDArray[np.bool_]:
    """Which rows (M,) are, in every column, an earlier row over again; a column that only counts the rows says nothing."""
    count = len(next(iter(columns.values())))
    rows, group = np.arange(count), np.zeros(count, dtype=np.int64)
    for values in sorted(columns.values(), key=lambda values: values.dtype != float):  # numbers first: texts are slow to sort
        if values.dtype == float and np.array_equal(values - values[0], np.arange(count)):
            continue
        _, code = np.unique(values[rows], return_inverse=True)
        _, group, members = np.unique(group * len(rows) + code, return_inverse=True, return_counts=True)
        shared = members[group] > 1
        rows, group = rows[shared], group[shared]
        if not len(rows):
            break
    repeated_M = np.zeros(count, dtype=bool)
    repeated_M[rows] = True
    repeated_M[rows[np.unique(group, return_index=True)[1]]] = False
    return repeated_M
