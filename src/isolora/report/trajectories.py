"""What the figures draw: measured curves, one for each run, and the choices (base model, adapter) that a law is asked about."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isolora.json_types import JsonObject
from isolora.laws import Array
from isolora.plan.options import name_by_size
from isolora.table import SHORT_NAMES, Table

Key = tuple[str, str, int | None]
"""Base model, method, rank."""
_READ = (
    *("run", "model", "method", "rank", "learning_rate", "stage"),
    *("tokens", "flops", "loss", "body_parameters", "trainable_parameters"),
)
"""Columns that a trajectory is made of: each run is cut out of every one of them, and a store may hold ten thousand."""


@dataclass(frozen=True)
class Adapted:
    """A base model with an adapter."""

    model: str
    method: str
    rank: int | None

    @property
    def key(self) -> Key:
        return self.model, self.method, self.rank

    @property
    def name(self) -> str:
        return trajectory_name(*self.key)


@dataclass(frozen=True)
class Trajectory(Adapted):
    """One run: tokens, training FLOPs and held-out loss (nats per token) at each evaluation, in order of tokens."""

    run: str
    variant: str
    learning_rate: float
    stage: str
    tokens: Array
    flops: Array
    loss: Array

    @property
    def name(self) -> str:
        return trajectory_name(*self.key, self.variant)

    @property
    def adapter(self) -> str:
        """The name without the base model's: 'lora, rank 8', 'bottleneck, places houlsby'."""
        return ", ".join(part for part in (self.method or "all runs", self.variant, _ranked(self.rank)) if part)

    @property
    def family(self) -> str:
        """Method and variant, without rank: what has a colour and a symbol of its own."""
        return ", ".join(part for part in (self.method or "all runs", self.variant) if part)

    def loss_at_flops(self, flops: float) -> float:
        """Between two measured points by the logarithm of FLOPs; NaN outside the measured range."""
        inside = self.flops[0] <= flops <= self.flops[-1]
        return float(np.interp(np.log(flops), np.log(self.flops), self.loss)) if inside else float("nan")


@dataclass(frozen=True)
class Choice(Adapted):
    """Its weights, and the distinct tokens that there are (infinite where none was repeated)."""

    body_parameters: float
    trainable_parameters: float
    available_tokens: float

    def columns(self, tokens_M: Array) -> JsonObject:
        """What a law takes, for this choice at so many tokens."""
        whole_M = np.ones_like(tokens_M)
        return {
            "n": self.body_parameters * whole_M,
            "d": tokens_M,
            "p": self.trainable_parameters * whole_M,
            "u": np.minimum(tokens_M, self.available_tokens),
            **{name: np.full(np.shape(tokens_M), getattr(self, name), dtype=object) for name in ("model", "method")},
        }


def trajectory_name(model: str, method: str, rank: int | None, variant: str = "") -> str:
    """'nano-1m, rank 8'; another method than LoRA is named too."""
    return ", ".join(part for part in (model, "" if method == "lora" else method, variant, _ranked(rank)) if part)


def _ranked(rank: int | None) -> str:
    return "" if rank is None else f"rank {rank}"


def variants(table: Table) -> list[str]:
    """Settings that tell runs of one method and rank apart, for each row: 'places houlsby'; empty where there are none."""
    if "config" not in table or "method" not in table:
        return [""] * len(table)
    settings = {text: _method_settings(text) for text in dict.fromkeys(table["config"])}
    seen: dict[tuple[str, str], dict[str, set[str]]] = {}
    keys = list(zip(table["method"], map(str, _numbers(table, "rank", np.nan)), strict=True))
    for key, text in zip(keys, table["config"], strict=True):
        for name, value in settings[text].items():
            seen.setdefault(key, {}).setdefault(name, set()).add(value)
    differing = {key: [name for name, values in names.items() if len(values) > 1] for key, names in seen.items()}
    return [
        ", ".join(f"{name} {settings[text][name]}" for name in differing.get(key, ()) if name in settings[text])
        for key, text in zip(keys, table["config"], strict=True)
    ]


def _method_settings(config: str) -> dict[str, str]:
    """The method's settings in a run's configuration; none where it has no such thing."""
    try:
        method = json.loads(config).get("method", {})
    except (ValueError, AttributeError):
        return {}
    if not isinstance(method, dict):
        return {}
    return {name: str(value) for name, value in method.items() if name not in ("name", "rank") and value is not None}


def trajectories(table: Table) -> list[Trajectory]:
    """Every run of the table, its points with tokens, in order of size, rank and learning rate."""
    table = trained(table)
    if not len(table):
        return []
    read = {name: table[name] for name in _READ if name in table}
    table = Table({**read, "variant": np.array(variants(table), dtype=object)})
    order = np.argsort(table["run"].astype(str), kind="stable")
    _, starts = np.unique(table["run"].astype(str)[order], return_index=True)
    runs = [_trajectory(table.where(rows)) for rows in np.split(order, starts[1:])]
    sizes = {model: index for index, model in enumerate(models(table))}
    return sorted(runs, key=lambda run: (sizes[run.model], run.method, run.variant, run.rank or 0, run.learning_rate))


def trained(table: Table) -> Table:
    """The points after the start of their run; a table without tokens counts its rows instead."""
    if "tokens" not in table:
        return Table({**table.columns, "tokens": np.ones(len(table))})
    return table.where(table["tokens"] > 0)


def models(table: Table) -> list[str]:
    """Names of the base models, smallest first."""
    names_M, size_M = _models(table), _numbers(table, "body_parameters", 0.0)
    sizes = {str(name): float(size) for name, size in zip(names_M, size_M, strict=True)}
    return sorted(sizes, key=lambda name: (sizes[name], name))


def ranks(runs: Sequence[Trajectory]) -> list[int | None]:
    return sorted({run.rank for run in runs}, key=lambda rank: rank or 0)


def choices(table: Table) -> list[Choice]:
    """Each (model, method, rank) of the table, in order of size and rank."""
    table = trained(table)
    rows: dict[Key, list[int]] = {}
    for row, key in enumerate(_keys(table)):
        rows.setdefault(key, []).append(row)
    order = {model: index for index, model in enumerate(models(table))}
    keys = sorted(rows, key=lambda key: (order[key[0]], key[1], key[2] or 0))
    return [_choice(key, table.where(np.array(rows[key]))) for key in keys]


def training_flops(table: Table) -> Array:
    """Training FLOPs of each point; about 4 n + 6 p a token where the table does not say."""
    body_M, trained_M = _numbers(table, "body_parameters", 0.0), _numbers(table, "trainable_parameters", 0.0)
    guess_M = table["tokens"] * np.maximum(4 * body_M + 6 * trained_M, 1.0)
    measured_M = _numbers(table, "flops", np.nan)
    return np.where(np.isfinite(measured_M), measured_M, guess_M)


def _trajectory(rows: Table) -> Trajectory:
    rows = rows.where(np.argsort(rows["tokens"], kind="stable"))
    model, method, rank = _keys(rows)[0]
    return Trajectory(
        run=str(rows["run"][0]),
        variant=str(rows["variant"][0]),
        model=model,
        method=method,
        rank=rank,
        learning_rate=float(_numbers(rows, "learning_rate", np.nan)[0]),
        stage=str(rows["stage"][0]) if "stage" in rows else "",
        tokens=rows["tokens"],
        flops=training_flops(rows),
        loss=rows["loss"],
    )


def _choice(key: Key, rows: Table) -> Choice:
    unique_M = _numbers(rows, SHORT_NAMES["u"], np.nan)
    repeated = bool((unique_M < 0.99 * rows["tokens"]).any())
    return Choice(
        *key,
        body_parameters=float(_numbers(rows, SHORT_NAMES["n"], 1.0)[0]),
        trainable_parameters=float(_numbers(rows, SHORT_NAMES["p"], 1.0)[0]),
        available_tokens=float(np.nanmax(unique_M)) if repeated else float("inf"),
    )


def _keys(table: Table) -> list[Key]:
    methods = [str(method) for method in table["method"]] if "method" in table else [""] * len(table)
    rank_M = [int(rank) if np.isfinite(rank) else None for rank in _numbers(table, "rank", np.nan)]
    return list(zip(map(str, _models(table)), methods, rank_M, strict=True))


def _numbers(table: Table, name: str, otherwise: float) -> Array:
    column: Array = table[name] if name in table else np.full(len(table), otherwise)
    return column


def _models(table: Table) -> NDArray[np.object_]:
    """The model column, or a name made of the size; one name for a table that has neither."""
    if "model" in table:
        names: NDArray[np.object_] = table["model"]
        return names
    if "body_parameters" in table:
        return np.array([name_by_size(size) for size in table["body_parameters"]], dtype=object)
    return np.full(len(table), "all points", dtype=object)
