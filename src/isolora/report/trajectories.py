"""What the figures draw: measured curves, one for each run, and the choices (base model, adapter) that a law is asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isolora.laws import Array
from isolora.report.palette import short
from isolora.table import SHORT_NAMES, Table

Key = tuple[str, str, int | None]
"""Base model, method, rank."""


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
        return named(*self.key)


@dataclass(frozen=True)
class Trajectory(Adapted):
    """One run: tokens, training FLOPs and held-out loss (nats per token) at each evaluation, in order of tokens."""

    run: str
    learning_rate: float
    stage: str
    tokens: Array
    flops: Array
    loss: Array

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

    def columns(self, tokens_M: Array) -> dict[str, Any]:
        """What a law takes, for this choice at so many tokens."""
        whole_M = np.ones_like(tokens_M)
        return {
            "n": self.body_parameters * whole_M,
            "d": tokens_M,
            "p": self.trainable_parameters * whole_M,
            "u": np.minimum(tokens_M, self.available_tokens),
            "method": np.full(np.shape(tokens_M), self.method, dtype=object),
        }


def named(model: str, method: str, rank: int | None) -> str:
    """'nano-1m, rank 8'; another method than LoRA is named too."""
    adapter = "" if method in ("lora", "") else f", {method}"
    return f"{model}{adapter}" if rank is None else f"{model}{adapter}, rank {rank}"


def trajectories(table: Table) -> list[Trajectory]:
    """Every run of the table, its points with tokens, in order of size, rank and learning rate."""
    table = table.where(table["tokens"] > 0)
    runs = [_trajectory(table.where(table["run"] == run)) for run in dict.fromkeys(table["run"])]
    sizes = {model: index for index, model in enumerate(models(table))}
    return sorted(runs, key=lambda run: (sizes[run.model], run.rank or 0, run.learning_rate))


def models(table: Table) -> list[str]:
    """Names of the base models, smallest first."""
    names_M, size_M = _models(table), _numbers(table, "body_parameters", 0.0)
    sizes = {str(name): float(size) for name, size in zip(names_M, size_M, strict=True)}
    return sorted(sizes, key=lambda name: (sizes[name], name))


def ranks(runs: Sequence[Trajectory]) -> list[int | None]:
    return sorted({run.rank for run in runs}, key=lambda rank: rank or 0)


def choices(table: Table) -> list[Choice]:
    """Each (model, method, rank) of the table, in order of size and rank."""
    table = table.where(table["tokens"] > 0)
    rows: dict[Key, list[int]] = {}
    for row, key in enumerate(_keys(table)):
        rows.setdefault(key, []).append(row)
    order = {model: index for index, model in enumerate(models(table))}
    keys = sorted(rows, key=lambda key: (order[key[0]], key[1], key[2] or 0))
    return [_choice(key, table.where(np.array(rows[key]))) for key in keys]


def flops(table: Table) -> Array:
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
        model=model,
        method=method,
        rank=rank,
        learning_rate=float(_numbers(rows, "learning_rate", np.nan)[0]),
        stage=str(rows["stage"][0]) if "stage" in rows else "",
        tokens=rows["tokens"],
        flops=flops(rows),
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
    rank_M = [None if np.isnan(rank) else int(rank) for rank in _numbers(table, "rank", np.nan)]
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
        return np.array([f"{short(size)} weights" for size in table["body_parameters"]], dtype=object)
    return np.full(len(table), "all points", dtype=object)
