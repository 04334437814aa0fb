"""What the figures draw: measured curves, one for each run, and the choices (base model, rank) that a law can be asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isolora.laws import Array, Columns
from isolora.report.palette import short
from isolora.table import SHORT_NAMES, Table

VERIFY_STAGE = "verify"


@dataclass(frozen=True)
class Trajectory:
    """One run: tokens, training FLOPs and held-out loss (nats per token) at each evaluation, in order of tokens."""

    run: str
    model: str
    rank: int | None
    learning_rate: float
    stage: str
    tokens_M: Array
    flops_M: Array
    loss_M: Array

    @property
    def name(self) -> str:
        return _named(self.model, self.rank)

    def loss_at_flops(self, flops: float) -> float:
        """Between two measured points by the logarithm of FLOPs; NaN outside the measured range."""
        inside = self.flops_M[0] <= flops <= self.flops_M[-1]
        return float(np.interp(np.log(flops), np.log(self.flops_M), self.loss_M)) if inside else float("nan")


@dataclass(frozen=True)
class Choice:
    """A base model with a rank: its weights, its price in FLOPs per token, and the distinct tokens that there are."""

    model: str
    rank: int | None
    body_parameters: float
    trainable_parameters: float
    flops_per_token: float
    available_tokens: float

    @property
    def name(self) -> str:
        return _named(self.model, self.rank)

    def columns(self, tokens_M: Array) -> Columns:
        """What a law takes, for this choice at so many tokens."""
        whole_M = np.ones_like(tokens_M)
        return {
            "n": self.body_parameters * whole_M,
            "d": tokens_M,
            "p": self.trainable_parameters * whole_M,
            "u": np.minimum(tokens_M, self.available_tokens),
        }


def trajectories(table: Table) -> list[Trajectory]:
    """Every run of the table that has tokens to plot by, in order of size, rank and learning rate."""
    table = table.where(table["tokens"] > 0)
    runs = [_trajectory(table.where(table["run"] == run)) for run in dict.fromkeys(table["run"])]
    sizes = {model: index for index, model in enumerate(models(table))}
    return sorted(runs, key=lambda run: (sizes[run.model], run.rank or 0, run.learning_rate))


def models(table: Table) -> list[str]:
    """Names of the base models, smallest first."""
    names_M, size_M = _models(table), _numbers(table, "body_parameters", 0.0)
    sizes = {name: float(size) for name, size in zip(names_M, size_M, strict=True)}
    return sorted(sizes, key=lambda name: (sizes[name], name))


def ranks(runs: Sequence[Trajectory]) -> list[int | None]:
    return sorted({run.rank for run in runs}, key=lambda rank: rank or 0)


def choices(table: Table) -> list[Choice]:
    """Each (model, rank) of the table, in order of size and rank."""
    table = table.where(table["tokens"] > 0)
    rank_M, model_M = _numbers(table, "rank", np.nan), _models(table)
    found = []
    for model in models(table):
        for rank in np.unique(rank_M[model_M == model]):
            same_M = (model_M == model) & ((rank_M == rank) | np.isnan(rank_M) & np.isnan(rank))
            found.append(_choice(model, rank, table.where(same_M)))
    return found


def flops(table: Table) -> Array:
    """Training FLOPs of each point; about 4 n + 6 p a token where the table does not say."""
    body_M, trained_M = _numbers(table, "body_parameters", 0.0), _numbers(table, "trainable_parameters", 0.0)
    guess_M = table["tokens"] * np.maximum(4 * body_M + 6 * trained_M, 1.0)
    measured_M = _numbers(table, "flops", np.nan)
    return np.where(np.isfinite(measured_M), measured_M, guess_M)


def _named(model: str, rank: int | None) -> str:
    return model if rank is None else f"{model}, rank {rank}"


def _trajectory(rows: Table) -> Trajectory:
    rows = rows.where(np.argsort(rows["tokens"], kind="stable"))
    rank = _numbers(rows, "rank", np.nan)[0]
    return Trajectory(
        run=str(rows["run"][0]),
        model=str(_models(rows)[0]),
        rank=None if np.isnan(rank) else int(rank),
        learning_rate=float(_numbers(rows, "learning_rate", np.nan)[0]),
        stage=str(rows["stage"][0]) if "stage" in rows else "",
        tokens_M=rows["tokens"],
        flops_M=flops(rows),
        loss_M=rows["loss"],
    )


def _choice(model: str, rank: float, rows: Table) -> Choice:
    last = int(np.argmax(rows["tokens"]))
    unique = _numbers(rows, SHORT_NAMES["u"], np.nan)
    repeated = np.isfinite(unique) & (unique < 0.99 * rows["tokens"])
    return Choice(
        model=model,
        rank=None if np.isnan(rank) else int(rank),
        body_parameters=float(_numbers(rows, "body_parameters", 1.0)[0]),
        trainable_parameters=float(_numbers(rows, "trainable_parameters", 1.0)[0]),
        flops_per_token=float(flops(rows)[last] / rows["tokens"][last]),
        available_tokens=float(unique.max()) if repeated.any() else np.inf,
    )


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
