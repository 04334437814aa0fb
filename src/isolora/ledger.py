"""The ledger: what a step of a method on a base costs, exactly, for any batch shape.

FLOPs of one step are  rows·(a + b·length + c·length²) + d·labels + e  for every architecture whose work does not depend on the
data: quadratic through attention, linear in the positions at which logits are asked; a second sequence (an encoder's input)
adds its own three terms. `rehearsal` finds the coefficients. Pure arithmetic, no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from isolora.json_types import JsonObject

if TYPE_CHECKING:
    from isolora.tasks.base import Examples

TERMS = 8
PHASES = ("forward", "backward_inputs", "backward_weights", "recomputation", "reference")
"""recomputation: what gradient checkpointing does again; reference: a preference task's scores under the bare base."""
GROUPS = ("embedding", "attention projections", "attention scores", "feed-forward", "experts", "head", "adapter")
OPTIMISER_FLOPS_PER_WEIGHT = 17
"""AdamW by Loshchilov and Hutter 1711.05101, counted line by line: decay 2, moments 3 and 4, bias corrections 2, root, sum and
quotient 3, step 2, gradient clipping 1. Element-wise, so not in any total."""


@dataclass(frozen=True)
class BatchShape:
    """A step's batch: `rows` sequences padded to `length` with `labels` labelled positions in all; second: the padded length of
    each row's second sequence, 0 where there is none."""

    rows: float
    length: float
    labels: float
    second: float = 0

    @classmethod
    def of(cls, examples: Examples, rows: NDArray[np.int64]) -> BatchShape:
        """The batch that these examples make together."""
        second = 0 if examples.second is None else int(examples.second.lengths[rows].max())
        return cls(len(rows), int(examples.lengths[rows].max()), int(examples.label_counts[rows].sum()), second)

    @property
    def tokens(self) -> int:
        """Padding included."""
        return int(self.rows * (self.length + self.second))

    @property
    def terms(self) -> NDArray[np.float64]:
        """What the coefficients multiply."""
        rows, own, other = self.rows, self.length, self.second
        second = (rows * other, rows * other**2, rows * other * own)
        return np.array([rows, rows * own, rows * own**2, self.labels, 1, *second], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Flops:
    """FLOPs of a step or a run; a multiply and an add count as two. table [phases, groups]."""

    table: NDArray[np.float64] = field(default_factory=lambda: np.zeros((len(PHASES), len(GROUPS))))

    @property
    def total(self) -> float:
        return float(self.table.sum())

    def __getattr__(self, name: str) -> float:
        """A phase by its name."""
        if name not in PHASES:
            raise AttributeError(name)
        return float(self.table[PHASES.index(name)].sum())

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.table + other.table)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Flops) and bool(np.array_equal(self.table, other.table))

    def by_group(self) -> dict[str, dict[str, float]]:
        """group -> phase -> FLOPs, groups that do nothing left out."""
        columns = ((group, self.table[:, index]) for index, group in enumerate(GROUPS))
        return {group: dict(zip(PHASES, map(float, column), strict=True)) for group, column in columns if column.any()}

    def to_json(self) -> JsonObject:
        return {**{phase: getattr(self, phase) for phase in PHASES}, "total": self.total}


@dataclass(frozen=True)
class Ledger:
    """Prices of one method on one base.

    coefficients [phases, groups, terms]: FLOPs per term of a `Shape`; reference is paid once for each example. added_parameters:
    weights that the base does not have, the adapter's own.
    """

    coefficients: NDArray[np.float64]
    trainable_parameters: int
    body_parameters: int
    model_parameters: int
    added_parameters: int = 0

    def flops(self, shape: BatchShape, first_pass: bool = True) -> Flops:
        """One step over such a batch; first_pass: its examples have not been seen before."""
        table = self.coefficients @ shape.terms
        if not first_pass:
            table[PHASES.index("reference")] = 0
        return Flops(table)

    def to_json(self) -> JsonObject:
        return {**vars(self), "coefficients": self.coefficients.tolist()}

    @classmethod
    def from_json(cls, said: JsonObject) -> Ledger:
        return cls(**{**said, "coefficients": np.array(said["coefficients"])})

    @property
    def optimiser_flops_per_step(self) -> int:
        """Element-wise work of one AdamW step; matrix products are counted in `flops`, this is not."""
        return OPTIMISER_FLOPS_PER_WEIGHT * self.trainable_parameters
