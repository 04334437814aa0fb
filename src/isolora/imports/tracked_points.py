"""From tracked runs to the table's points: names that laws know, cumulative counts at every evaluation, and what was assumed."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from isolora.imports.base import LoggedRun, Read
from isolora.json_types import JsonMapping, JsonObject
from isolora.table import canonical_name
from isolora.table.columns import parse_number

SETTINGS: Mapping[str, tuple[str, ...]] = {
    "model": ("model", "model_name_or_path", "base_model_name_or_path", "model_id", "model_name", "base_model", "_name_or_path"),
    "method": ("method.name", "peft_type", "peft_method", "adapter_type", "method"),
    "rank": ("rank", "lora_r", "lora_rank", "r"),
    "learning_rate": ("learning_rate", "lr", "max_lr", "peak_lr"),
    "body_parameters": ("body_parameters", "n", "num_parameters", "n_params", "num_params", "model_size"),
    "trainable_parameters": ("trainable_parameters", "trainable_params", "num_trainable_params"),
    "seed": ("seed",),
    "schedule": ("lr_scheduler_type", "training.schedule", "schedule", "lr_scheduler", "lr_schedule"),
}
"""Column -> what a setting is called that fills it, the surest first; the last part of a dotted key counts too."""
TEXTS = ("model", "method", "schedule")
LOGGED: Mapping[str, tuple[str, ...]] = {
    "tokens": ("num_input_tokens_seen", "tokens", "num_tokens", "tokens_seen", "total_tokens", "consumed_tokens", "train_tokens"),
    "flops": ("total_flos", "flops", "train_flops", "total_flops"),
    "seconds": ("seconds", "runtime", "_runtime", "Runtime", "train_runtime", "elapsed_time"),
}
"""Counts that only grow: known at some steps, and between them by the share of steps."""
HELD_OUT = (
    "eval_loss",
    "eval/loss",
    "val_loss",
    "val/loss",
    "valid_loss",
    "validation_loss",
    "validation/loss",
    "test_loss",
    "loss.eval",
)
TRAINING = ("train/loss", "loss", "training_loss", "train_loss", "train/train_loss")
_OF_ONE_RUN = {
    *("output", "logging", "run", "seed", "hub", "dir", "version", "created", "time", "timestamp", "date", "checkpoint"),
    *("epochs", "steps", "save", "host", "hostname", "world", "cache", "wandb", "entity", "user", "notes", "tags", "group"),
    "project",
}
"""Words in the names of settings that differ from run to run and say nothing of how well it learns for its length."""
_MOST_OTHERS = 20
_GROWING = ("tokens", "flops")
"""Counts that a history names as tables do, too; `time` or `duration` may be a step's."""
COLUMNS = ("run", "model", "method", "rank", "learning_rate", "schedule", "seed", "step", "tokens", "flops", "seconds", "loss")
Array = NDArray[np.float64]
_PREFIXES = ("eval/", "eval_", "val/", "val_", "valid_", "validation_", "metrics/", "test_", "test/")
_NOT_MEASURES = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "jit_compilation_time")


def points_of_runs(read: Read) -> tuple[list[JsonObject], Counter[str], list[str]]:
    """(a row for each evaluation of each run, what was left out by reason, sentences about what was assumed)."""
    rows: list[JsonObject] = []
    left_out, assumed = Counter(read.left_out), Counter[str]()
    measured = [run for run in read.runs if _is_held_out(run)]
    left_out["runs without a held-out loss, which others have"] += len(read.runs) - len(measured) if measured else 0
    used = measured or read.runs
    others = other_settings([_less_measures(run) for run in used])
    for run in used:
        found = _points(run, left_out, assumed)
        rows += [{**_kept_settings(run.config, others), **row} for row in found]
        left_out["runs without a loss"] += not found
    notes = [*read.notes, *(f"{count} {what}" for what, count in assumed.items() if count)]
    if others:
        shown = ", ".join(sorted(others.values()))
        notes.append(f"runs differ in {shown} as well, which no law reads: --where {min(others.values())}=VALUE takes some")
    return rows, +left_out, notes


def other_settings(configs: Sequence[JsonMapping]) -> dict[str, str]:
    """Settings that no column is filled from and in which runs differ, those apart that only name a run or give it its length:
    key -> the column that keeps it."""
    known = {name for names in (*SETTINGS.values(), *LOGGED.values(), HELD_OUT, TRAINING) for name in names}
    found: dict[str, str] = {}
    for key in dict.fromkeys(key for config in configs for key in config):
        last = key.rpartition(".")[2].rpartition("/")[2]
        values = {str(config[key]) for config in configs if _is_plain(config.get(key))}
        shared = sum(key in config for config in configs) > len(values) > 1
        read = {key, last} & known or canonical_name(last) in _GROWING
        if shared and not read and not _names_a_run(last) and len(found) < _MOST_OTHERS:
            found[key] = last if last not in (*COLUMNS, *found.values()) else key
    return found


def _less_measures(run: LoggedRun) -> JsonObject:
    """Its settings, less what it logged as held-out measures: a row of a table of runs holds both."""
    logged = {
        name for row in run.history.values() for name in row if name.startswith(_PREFIXES) and _value(row[name]) is not None
    }
    return {key: value for key, value in run.config.items() if key not in logged}


def _kept_settings(config: JsonMapping, others: Mapping[str, str]) -> JsonObject:
    return {column: str(config[key]) for key, column in others.items() if _is_plain(config.get(key))}


def _is_plain(value: object) -> bool:
    return isinstance(value, bool | int | float | str) and value != ""


def _names_a_run(setting: str) -> bool:
    return setting.startswith("_") or not _OF_ONE_RUN.isdisjoint(re.split(r"[^a-z]+", setting.lower()))


def _points(run: LoggedRun, left_out: Counter[str], assumed: Counter[str]) -> list[JsonObject]:
    name = _loss_name(run.history.values())
    if name is None:
        return []
    measured = {step: row for step, row in run.history.items() if _value(row.get(name)) is not None}
    left_out["logged steps without a held-out loss"] += len(run.history) - len(measured)
    left_out["evaluations in whose place the same step of the run has a later one"] += run.replaced.get(name, 0)
    if name in TRAINING and not _own(run):
        assumed[f"points have the training loss ({name}), since no held-out loss was logged"] += len(measured)
    settings = setting_columns(run.config)
    counts = {column: _counted(run, column, list(measured), assumed) for column in LOGGED}
    assumed["points have the place of their row as step, since none was given"] += len(measured) if run.numbered else 0
    if counts["tokens"] is None and not run.numbered:
        counts["tokens"] = _tokens_from_batches(run, list(measured), assumed)
    fixed = {"run": run.name, **settings}
    return [
        {
            **fixed,
            "step": step,
            **{column: values[i] for column, values in counts.items() if values is not None},
            "loss": _value(row[name]),
            **_measures(row, name),
        }
        for i, (step, row) in enumerate(measured.items())
    ]


def _is_held_out(run: LoggedRun) -> bool:
    """Whether its loss is one on held-out data: a law of both kinds at once would be of neither."""
    name = _loss_name(run.history.values())
    return name is not None and (name not in TRAINING or _own(run))


def _own(run: LoggedRun) -> bool:
    """Whether isolora itself logged the run: over tokens, and with the held-out loss as `loss`."""
    return "training.batch_tokens" in run.config


def _loss_name(history: Iterable[JsonMapping]) -> str | None:
    """What the loss of a run is logged as: on held-out data where there is one, else in training."""
    logged = {name for row in history for name, value in row.items() if _value(value) is not None}
    for name in (*HELD_OUT, *TRAINING):
        if name in logged:
            return name
    return next((name for name in sorted(logged) if canonical_name(name) == "loss"), None)


def setting_columns(config: JsonMapping) -> JsonObject:
    """The columns that settings fill."""
    found: JsonObject = {}
    for column, names in SETTINGS.items():
        value = next((config[key] for name in names for key in _keys(config, name) if config[key] not in (None, "")), None)
        if value is not None and not isinstance(value, Mapping):
            found[column] = str(value).rpartition(".")[2].lower() if column in ("method", "schedule") else value
            if column not in TEXTS:
                found[column] = _value(value)
    return {column: value for column, value in found.items() if value is not None}


def _keys(config: JsonMapping, name: str) -> list[str]:
    exact = [name] if name in config else []
    return [*exact, *sorted((key for key in config if key.endswith((f".{name}", f"/{name}"))), key=len)]


def _counted(run: LoggedRun, column: str, steps: Sequence[float], assumed: Counter[str]) -> list[float] | None:
    """A growing count at each step: as logged, between logged steps by the share of steps; None where it was never logged."""
    known = {}
    logged = dict.fromkeys(name for row in run.history.values() for name in row) if column in _GROWING else {}
    names = (*LOGGED[column], *(name for name in logged if canonical_name(name) == column))
    for step, row in run.history.items():
        value = next((found for name in names if (found := _logged(row, name)) is not None), None)
        if value is not None:
            known[step] = value
    if not known:
        return None
    assumed[f"points have {column} by the share of steps, between those logged"] += sum(step not in known for step in steps)
    at, values = [0.0, *known], [0.0, *known.values()]
    counted: Array = np.interp(steps, at, values)
    if at[-1] > 0:  # np.interp would hold the last value; a count goes on at its mean pace
        counted = np.where(np.asarray(steps) > at[-1], np.asarray(steps) * values[-1] / at[-1], counted)
    return [float(value) for value in counted]


def _logged(row: JsonMapping, name: str) -> float | None:
    return next((found for key in (name, f"train/{name}", f"train_{name}") if (found := _value(row.get(key))) is not None), None)


def _tokens_from_batches(run: LoggedRun, steps: Sequence[float], assumed: Counter[str]) -> list[float] | None:
    """Steps x rows x length, where the settings say them: an upper bound, since padding is counted."""

    if _own(run):
        return list(steps)

    def setting(*names: str) -> float | None:
        return next((found for name in names for key in _keys(run.config, name) if (found := _value(run.config[key]))), None)

    rows = setting("per_device_train_batch_size", "train_batch_size", "batch_size")
    length = setting("max_seq_length", "max_seq_len", "max_length", "block_size", "seq_length", "sequence_length")
    if not (rows and length):
        return None
    each = rows * length * (setting("gradient_accumulation_steps") or 1)
    assumed["points have tokens as steps x batch x length, padding included, since no tokens were logged"] += len(steps)
    return [step * each for step in steps]


def _measures(row: JsonMapping, loss: str) -> dict[str, float]:
    """The other held-out measures of an evaluation, under their own names."""
    found: dict[str, float] = {}
    for key, given in row.items():
        prefix = next((prefix for prefix in _PREFIXES if key.startswith(prefix)), None)
        name = key[len(prefix) :] if prefix else ""
        value = _value(given)
        if prefix and value is not None and key != loss and name not in (*_NOT_MEASURES, *COLUMNS, "epoch"):
            found[name] = value
    return found


def _value(given: object) -> float | None:
    """A finite number, or None."""
    found = None if isinstance(given, bool | Mapping | list) else parse_number(given)
    return found if found is not None and math.isfinite(found) else None
