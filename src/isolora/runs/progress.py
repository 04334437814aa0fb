"""What a run consumes, step by step: tokens, padding, passes, FLOPs; counted by the loop as it trains and by `dry_run` before."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from isolora.config import RunConfig, TrainingConfig
from isolora.ledger import BatchShape, Flops, Ledger
from isolora.runs.batches import Indices, Stream, short_first
from isolora.runs.micro_batches import accumulation, micro_batches
from isolora.tasks.base import Examples

if TYPE_CHECKING:
    from isolora.runs.prepared import RunExamples


@dataclass
class Progress:
    """What a member has consumed so far and how it stands; saved with every checkpoint."""

    step: int = 0
    tokens: int = 0
    padding_tokens: int = 0
    unique_tokens: int = 0
    unique_examples: int = 0
    flops: float = 0.0
    flops_table: list[list[float]] = field(default_factory=lambda: Flops().table.tolist())  # [phases, groups]
    seconds: float = 0.0
    epoch: int = 0
    index: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    next_evaluation: float = 0.0
    last_loss: float = math.nan
    metrics: dict[str, float] = field(default_factory=dict)
    forgotten: dict[str, float] = field(default_factory=dict)
    first_evaluation: int = 0  # tokens
    share_gaps: list[float] = field(default_factory=list)  # there: loss on all held-out examples less that on each share
    share_losses: list[tuple[int, float]] = field(default_factory=list)  # since: (tokens, mean loss on a share)
    share_score_gaps: list[dict[str, float]] = field(default_factory=list)  # there: the same of scores, by name
    share_scores: list[dict[str, float]] = field(default_factory=list)  # since: scores on a share
    state: str = "RUNNING"

    @property
    def consumed_flops(self) -> Flops:
        """The FLOPs so far, by phase and group."""
        return Flops(np.array(self.flops_table))

    @property
    def passes(self) -> float:
        return self.tokens / self.unique_tokens

    @property
    def train_loss(self) -> float:
        """Mean training loss since the last evaluation."""
        return self.loss_sum / max(1, self.loss_count)

    def spent(self, training: TrainingConfig, stream: Stream) -> float:
        """Share of the budget that is used up."""
        unit, amount = training.budget
        if unit == "epochs":
            return (self.epoch + self.index / stream.batches) / amount
        return {"tokens": self.tokens, "steps": self.step, "flops": self.flops}[unit] / amount

    def is_due(self, spent: float) -> bool:
        """Whether an evaluation is: a mark is reached, or the budget used up."""
        return spent >= 1 or self.tokens >= self.next_evaluation

    def pass_marks(self, ratio: float) -> None:
        """Move on to the first evaluation that lies ahead."""
        while self.next_evaluation <= self.tokens:
            self.next_evaluation *= ratio

    def consume(self, examples: Examples, micro_batches: list[Indices], stream: Stream, ledger: Ledger) -> None:
        """Count one optimiser step over examples taken from the stream."""
        consumed = Flops()
        for rows in micro_batches:
            shape = BatchShape.of(examples, rows)
            self.padding_tokens += shape.tokens - int(examples.sizes[rows].sum())
            consumed += ledger.flops(shape, first_pass=stream.epoch == 0)
        tokens = sum(int(examples.sizes[rows].sum()) for rows in micro_batches)
        self.tokens += tokens
        self.flops += consumed.total
        self.flops_table = (self.flops_table + consumed.table).tolist()
        self.epoch, self.index = stream.epoch, stream.index
        if stream.epoch == 0:
            self.unique_tokens += tokens
            self.unique_examples += sum(map(len, micro_batches))


@dataclass(frozen=True)
class DryRun:
    """A whole run on paper. progress: what it will have consumed; largest: its micro-batch of most tokens; evaluation_flops: of
    its held-out losses, which are in no total."""

    progress: Progress
    micro_batches: int
    largest: BatchShape
    evaluation_flops: float = 0.0

    @property
    def flops(self) -> Flops:
        return self.progress.consumed_flops


def dry_run(config: RunConfig, examples: RunExamples, ledger: Ledger) -> DryRun:
    """Draw the very batches that the run will draw."""
    training, train = config.training, examples.train
    progress = Progress(next_evaluation=training.evaluate_from)
    stream = Stream(train.sequence_lengths, training.batch_tokens, config.seed)
    shapes: list[BatchShape] = []
    evaluations, spent = 0, 0.0
    while spent < 1:
        parts = micro_batches(stream.next(), accumulation(training))
        progress.consume(train, parts, stream, ledger)
        progress.step += 1
        shapes += [BatchShape.of(train, rows) for rows in parts]
        spent = progress.spent(training, stream)
        evaluations += progress.is_due(spent)
        progress.pass_marks(training.evaluate_ratio)
    measured = evaluation_flops(training, examples.held_out.examples, ledger, evaluations)
    return DryRun(progress, len(shapes), max(shapes, key=lambda shape: shape.tokens), measured)


def share_count(examples: int, wanted: int | None) -> int:
    """In how many shares of about `wanted` so many held-out examples take turns; one where all are wanted."""
    return max(1, round(examples / (wanted or examples)))


def evaluation_flops(training: TrainingConfig, held_out: Examples, ledger: Ledger, evaluations: int) -> float:
    """Forward passes over held-out examples: all of them at the first evaluation and the last, a share between. Answers, other
    sources and texts on which forgetting is measured are not among them."""
    batches = short_first(held_out, training.batch_tokens)
    whole = sum(ledger.flops(BatchShape.of(held_out, rows)).forward for rows in batches)
    full = min(evaluations, 2)
    return whole * (full + (evaluations - full) / share_count(len(held_out), training.evaluate_between))
