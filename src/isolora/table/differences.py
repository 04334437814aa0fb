"""What the runs of a store differ in besides base, method, rank, learning rate, seed and budget, each run in words.

Where runs were measured on other data, or for another task, their losses mean other things: `measured_on`. What else differs
between the runs of one base, method and rank is a choice like the learning rate: `settings`. Words are `data.max_length=128;
task.template=...`, by the keys of a run's configuration; a column is there where runs differ.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from isolora.json_types import JsonMapping, JsonObject

MEASURED_ON, SETTINGS = "measured_on", "settings"
SEPARATOR = "; "
_MEASURE = (
    *("task", "new_tokens"),
    *(f"data.{name}" for name in ("source", "eval_split", "eval_examples", "max_length", "columns", "text_field")),
)
"""Keys, with all below them, that decide what a held-out loss is of."""
_NO_MATTER = (
    *("model", "seed", "forgetting", "trust_remote_code", "method.name", "method.rank", "task.score_at", "task.packing"),
    *(f"data.{name}" for name in ("seed", "train_examples", "on_error", "streaming")),
    *(f"training.{name}" for name in ("tokens", "steps", "epochs", "flops", "learning_rate", "trackers", "keep_checkpoints")),
    *(f"training.{name}" for name in ("evaluate_from", "evaluate_ratio", "evaluate_between", "checkpoint_seconds")),
    *(f"training.{name}" for name in ("gradient_checkpointing", "shard_base")),
)
"""Keys that laws and plans see by a column of their own, or that a loss does not depend on."""
SOURCE = "data.source"
_SEED = re.compile(r'"seed":\s*\d+,|,\s*"seed":\s*\d+')
VERIFY = "verify"
"""Stage of the proof of a recommendation."""
NOT_STUDIED = ("tune", VERIFY)
"""Stages of a study whose runs no law sees: trials of rates, which are short, and the proof of a recommendation."""


def differences(runs: Iterable[JsonMapping]) -> dict[str, JsonObject]:
    """Run -> {"measured_on": words, "settings": words}, less those in which no runs differ. runs: a store's rows of runs."""
    rows = {str(run["run"]): run for run in runs if run.get("config")}
    texts = {name: _SEED.sub("", row["config"]) for name, row in rows.items()}
    read = {text: _fields(text) for text in set(texts.values())}  # thousands of runs often differ in their seeds alone
    given = {name: read[text] for name, text in texts.items()}
    studied = {name: given[name] for name, row in rows.items() if row.get("stage") not in NOT_STUDIED}
    cells: dict[tuple[object, ...], list[JsonMapping]] = {}
    for name, fields in studied.items():
        cells.setdefault(tuple(rows[name].get(key) for key in ("model", "method", "rank")), []).append(fields)
    measured = [key for key in _differing(list(studied.values())) if _below(key, _MEASURE)]
    within = dict.fromkeys(key for fields in cells.values() for key in _differing(fields))
    settings = [key for key in within if not _below(key, _MEASURE)]
    wanted = {name: keys for name, keys in ((MEASURED_ON, measured), (SETTINGS, settings)) if keys}
    return {run: {name: _words(fields, keys) for name, keys in wanted.items()} for run, fields in given.items()}


def fields_in(words: str) -> dict[str, str]:
    """Key -> value of such words."""
    return dict(part.partition("=")[::2] for part in words.split(SEPARATOR) if part)


def joined_words(parts: Iterable[str]) -> str:
    """What several columns say, as one."""
    return SEPARATOR.join(part for part in parts if part)


def _fields(config: str) -> dict[str, str]:
    """A configuration's values by their keys; none where it is no object."""
    try:
        read = json.loads(config)
    except ValueError:
        return {}
    fields = dict(_flat(read)) if isinstance(read, dict) else {}
    if "://" not in fields.get(SOURCE, "://"):
        fields[SOURCE] = os.path.normpath(fields[SOURCE])  # ./texts.jsonl is texts.jsonl
    return fields


def _flat(fields: Mapping[str, object], before: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys with their values as text."""
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value if isinstance(value, str) else json.dumps(value)


def _differing(runs: Sequence[Mapping[str, str]]) -> list[str]:
    """Keys that have several values, of those that every run has: an earlier version did not write all."""
    first = runs[0] if runs else {}
    shared = [key for key in first if not _below(key, _NO_MATTER) and all(key in fields for fields in runs)]
    return [key for key in shared if any(fields[key] != first[key] for fields in runs)]


def _below(key: str, parts: Sequence[str]) -> bool:
    return any(key == part or key.startswith(f"{part}.") for part in parts)


def _words(fields: Mapping[str, str], keys: Sequence[str]) -> str:
    return SEPARATOR.join(f"{key}={fields[key]}" for key in keys if key in fields)
