"""Train what was recommended and hold the prediction against the measurement."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isolora.adapters import record
from isolora.config import DataConfig, RunConfig
from isolora.errors import ConfigError
from isolora.plan import Recommendation
from isolora.runs.documents import DocumentLoader
from isolora.study.design import run_of
from isolora.study.run import STUDY_FILE
from isolora.training.folder import held
from isolora.training.interruption import handled
from isolora.training.recorder import adapter_folder, outcome
from isolora.training.run import train_stack

VERIFY = "verify"


@dataclass(frozen=True)
class Verification:
    """Losses in nats per token; interval: 95 % prediction interval for a new run; flops: of the run that was trained."""

    run: str
    predicted: float
    interval: tuple[float, float]
    measured: float
    flops: float
    flops_over_largest_fitted: float
    adapter: Path

    @property
    def relative_error(self) -> float:
        return abs(self.predicted - self.measured) / self.measured

    @property
    def inside(self) -> bool:
        return self.interval[0] <= self.measured <= self.interval[1]

    def to_json(self) -> dict[str, Any]:
        return {
            "predicted": self.predicted,
            "interval": list(self.interval),
            "measured": self.measured,
            "relative_error": self.relative_error,
            "inside_interval": self.inside,
            "flops": self.flops,
            "flops_over_largest_fitted": self.flops_over_largest_fitted,
        }


def recommended_run(base: Mapping[str, Any], recommendation: Recommendation, seed: int) -> RunConfig:
    """The run that a recommendation describes, over a study's base configuration."""
    values = {
        "model": recommendation.model,
        "method": {**base.get("method", {}), **recommendation.method},
        "training.learning_rate": recommendation.learning_rate,
        "training.tokens": recommendation.tokens,
        "seed": seed,
    }
    run = run_of(base, values)
    return run.model_copy(update={"data": _with_examples(run, recommendation)})


def _with_examples(run: RunConfig, recommendation: Recommendation) -> DataConfig:
    """As many distinct examples as were recommended, or all there are; a single pass may draw on more, if the study does."""
    data = run.data
    wanted, given = recommendation.examples, data.train_examples
    if wanted is None or (recommendation.epochs == 1 and given is None):
        return data
    if data.streaming:  # how many there are is not known
        return data.model_copy(update={"train_examples": wanted})
    available = len(DocumentLoader().load(data.model_copy(update={"train_examples": None}), run.task).train)
    if recommendation.epochs == 1 and data.drawn_examples(available) >= wanted:
        return data
    return data.model_copy(update={"train_examples": min(wanted, available)})


def verify(
    folder: Path | str,
    recommendation: Recommendation,
    largest_fitted_flops: float,
    seed: int = 0,
    quiet: bool = False,
    law: str | None = None,
) -> Verification:
    """Train the recommendation into the study's store (stage "verify"). Raises ConfigError when the run did not end well.

    law: name of the one that recommended; the adapter's record and card keep it with the prediction and the measurement.
    """
    folder = Path(folder)
    study = json.loads((folder / STUDY_FILE).read_text(encoding="utf-8"))["study"]
    with handled(), held(folder) as store:
        [name] = train_stack([recommended_run(study["base"], recommendation, seed)], store, VERIFY, quiet)
    ended = outcome(store, name)
    if "loss" not in ended or "adapter" not in ended:
        raise ConfigError(f"verification: run {name} ended {ended['state']} ({ended.get('reason', '')})")
    proof = Verification(
        run=name,
        predicted=recommendation.predicted_loss,
        interval=(recommendation.interval[0], recommendation.interval[1]),
        measured=ended["loss"],
        flops=ended["flops"],
        flops_over_largest_fitted=ended["flops"] / largest_fitted_flops,
        adapter=adapter_folder(store, VERIFY, name),
    )
    record.amend(proof.adapter, verification={"law": law, **proof.to_json()})
    return proof
