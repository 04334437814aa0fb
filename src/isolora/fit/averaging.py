"""Several laws as one: each predicts, and their weighted mean is told with how far they lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from isolora import laws
from isolora.laws import Array, Law


@dataclass(frozen=True)
class AveragedLaw:
    """One of the laws that are averaged: its name, its share of the average and its parameters."""

    law: str
    weight: float
    theta: tuple[float, ...]

    def log_loss(self, columns: Mapping[str, Array]) -> Array:
        return np.log(self.shape.predict(np.array(self.theta), columns))

    @cached_property
    def shape(self) -> Law:
        """The law itself."""
        return laws.resolve(self.law)


def weighted_mean(members: Sequence[AveragedLaw], columns: Mapping[str, Array]) -> tuple[Array, Array]:
    """Weighted mean of the laws' log losses and their standard deviation about it, (M,) each."""
    weight_K = np.array([member.weight for member in members])
    log_loss_KM = np.stack([member.log_loss(columns) for member in members])
    mean_M = weight_K @ log_loss_KM
    return mean_M, np.sqrt(weight_K @ (log_loss_KM - mean_M) ** 2)
