"""Train what was recommended and hold the prediction against the measurement, in the unit of what was predicted."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isolora import registry
from isolora.adapters import record
from isolora.config import DataConfig, RunConfig
from isolora.errors import ConfigError
from isolora.fit import Score, value_of
from isolora.json_types import JsonMapping, JsonObject
from isolora.plan import Recommendation
from isolora.runs.document_loader import DocumentLoader
from isolora.runs.workspace import Workspace
from isolora.store import DIVERGED, Store, adapter_place
from isolora.study.design import run_from_grid
from isolora.table import NOT_STUDIED, VERIFY, differences, joined_words
from isolora.training.folder import locked_store
from isolora.training.interruption import handled
from isolora.training.ranks import refuse_ranks
from isolora.training.recorder import outcome
from isolora.training.training_run import train_stack


@dataclass(frozen=True)
class Verification:
    """predicted, interval (95 % for a new run) and measured are of the `target`: a loss in nats, or "1 - f1" and the like;
    flops: of the run that was trained; law: the one that predicted."""

    run: str
    predicted: float
    interval: tuple[float, float]
    measured: float
    flops: float
    flops_over_largest_fitted: float
    adapter: Path
    target: str = "loss"
    law: str | None = None

    @property
    def relative_error(self) -> float:
        """Over the measured value; infinite where that is 0, as 1 - accuracy may be."""
        missed = abs(self.predicted - self.measured)
        return missed / abs(self.measured) if self.measured else math.inf if missed else 0.0

    @property
    def inside(self) -> bool:
        return self.interval[0] <= self.measured <= self.interval[1]

    def to_json(self) -> JsonObject:
        score = Score.of(self.target, self.predicted, self.interval)
        return {
            "target": self.target,
            "law": self.law,
            "predicted": self.predicted,
            "interval": list(self.interval),
            "measured": self.measured,
            "relative_error": self.relative_error,
            "inside_interval": self.inside,
            "flops": self.flops,
            "flops_over_largest_fitted": self.flops_over_largest_fitted,
            "run": self.run,
            "adapter": str(self.adapter),
            "score": None if score is None else {**score.to_json(), "measured": 1 - self.measured},
        }

    def __str__(self) -> str:
        unit, factor = " nats" if self.target == "loss" else "", self.flops_over_largest_fitted
        score = Score.of(self.target, self.predicted, self.interval)
        name, value, (low, high) = self.target, self.predicted, self.interval
        if score:
            name, value, (low, high) = score.name, score.predicted, score.interval
        measured = 1 - self.measured if score else self.measured
        expected = "predicted" if factor > 1 else "expected"  # within what was measured, a law only fills in between points
        where = "" if factor > 1 else ", within what was measured: no prediction"
        of_error = f" in {self.target}" if score else ""
        verdict = f"{'inside' if self.inside else 'outside'} the interval, {100 * self.relative_error:.2f} % off{of_error}"
        return "\n".join(
            [
                f"{expected:<11}{name} {value:.4f}{unit}, 95 % interval {low:.4f} to {high:.4f}",
                f"measured   {measured:.4f}, {verdict}, at {factor:.3g} x the largest fitted FLOPs{where}",
            ]
        )


def recommended_run(
    base: JsonMapping, recommendation: Recommendation, seed: int, documents: DocumentLoader | None = None
) -> RunConfig:
    """The run that a recommendation describes, over a study's base configuration or that of a measured run."""
    values = {
        "model": recommendation.model,
        "method": _method(base.get("method", {}), recommendation.method),
        "training.tokens": recommendation.tokens,
        "seed": seed,
    }
    if math.isfinite(recommendation.learning_rate):
        values["training.learning_rate"] = recommendation.learning_rate
    run = run_from_grid(base, values)
    return run.model_copy(update={"data": _with_examples(run, recommendation, documents or DocumentLoader())})


def _method(given: Any, recommended: JsonMapping) -> JsonObject:
    """The method's fields: the base's own where it is the same method, and a rank only where the method has one."""
    known = {"name": given} if isinstance(given, str) else dict(given)
    name = str(recommended["name"] or known.get("name", "lora"))
    own = known if known.get("name", "lora") == name else {}
    rank = recommended.get("rank")
    ranked = {"rank": int(rank)} if rank and registry.load_plug_in("method", name).has_rank else {}
    return {**own, "name": name, **ranked}


def measured_base(store: Store, recommendation: Recommendation) -> JsonObject | None:
    """The configuration of the longest measured run of the recommended model, method, rank, learning rate and settings."""
    wanted = (recommendation.model, recommendation.method["name"], recommendation.method.get("rank") or None)
    reached = {point["run"]: (point["tokens"], -point["loss"]) for point in store.points()}
    runs = [run for run in store.runs() if run["run"] in reached and run["state"] != DIVERGED]  # as a table reads them
    told = differences(runs)
    alike = [run for run in runs if (run["model"], run["method"], run["rank"]) == wanted and run["stage"] not in NOT_STUDIED]
    alike = [run for run in alike if joined_words(told.get(run["run"], {}).values()) == recommendation.settings] or alike
    exact = [run for run in alike if math.isclose(run["learning_rate"], recommendation.learning_rate, rel_tol=1e-9)]
    longest = max(exact or alike, key=lambda run: reached[run["run"]], default=None)
    found: JsonObject | None = json.loads(longest["config"]) if longest else None
    return found


def _with_examples(run: RunConfig, recommendation: Recommendation, documents: DocumentLoader) -> DataConfig:
    """As many distinct examples as were recommended; a single pass may draw on more, if the study does."""
    data = run.data
    wanted, given = recommendation.examples, data.train_examples
    if wanted is None or (recommendation.epochs == 1 and given is None):
        return data
    available = examples_held(run, documents)
    if available is None:
        return data.model_copy(update={"train_examples": wanted})
    if recommendation.epochs == 1 and data.drawn_examples(available) >= wanted:
        return data
    return data.model_copy(update={"train_examples": min(wanted, available)})


def examples_held(run: RunConfig, documents: DocumentLoader) -> int | None:
    """Training documents in the run's source, however many it draws; None for a stream, whose end nobody knows."""
    if run.data.streaming:
        return None
    return len(documents.load(run.data.model_copy(update={"train_examples": None}), run.task).train)


def to_train(store: Store, base: JsonMapping, recommendation: Recommendation, seed: int, workspace: Workspace) -> RunConfig:
    """The recommended run, on the first seed from `seed` on that the study has not fitted: what the law saw proves nothing.

    It is evaluated from where the study ended: up to there the study has been measured already.
    """
    fitted = {run["run"] for run in store.runs() if run["stage"] != VERIFY}
    run = recommended_run(base, recommendation, seed, workspace.documents)
    while workspace.identity(run) in fitted:
        run = run.model_copy(update={"seed": run.seed + 1})
    reached = max((point["tokens"] for point in store.points() if point["run"] in fitted), default=0)
    since = {"evaluate_from": max(run.training.evaluate_from, reached)}
    return run.model_copy(update={"training": run.training.model_copy(update=since)})


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
    workspace = Workspace()
    refuse_ranks("verify")
    with handled(), locked_store(Path(folder)) as store:
        run = to_train(store, base_of(store, recommendation), recommendation, seed, workspace)
        adapter = _make_room(store, workspace.identity(run))
        [name] = train_stack([run], store, VERIFY, quiet, workspace=workspace)
    ended = outcome(store, name)
    if "loss" not in ended or "adapter" not in ended:
        raise ConfigError(f"verification: run {name} ended {ended['state']} ({ended.get('reason', '')})")
    last = store.points(name)[-1]
    proof = Verification(
        run=name,
        predicted=recommendation.predicted_loss,
        interval=(recommendation.interval[0], recommendation.interval[1]),
        measured=value_of({**json.loads(last["metrics"]), **last}, recommendation.target),
        flops=ended["flops"],
        flops_over_largest_fitted=ended["flops"] / largest_fitted_flops,
        adapter=adapter,
        target=recommendation.target,
        law=law,
    )
    _note(proof)
    return proof


def base_of(store: Store, recommendation: Recommendation) -> JsonMapping:
    """What the recommended run is built on. Raises ConfigError where the folder holds no run of the recommended model."""
    described = store.folder / "study.json"
    own = measured_base(store, recommendation)
    if own is None and described.is_file():
        own = json.loads(described.read_text(encoding="utf-8"))["study"]["base"]
    if own is None:
        raise ConfigError(f"SOURCE: {store.folder} holds no run of {recommendation.model} to take a configuration from")
    return own


def _make_room(store: Store, name: str) -> Path:
    """The folder of the recommended adapter, free for the run of that name: an earlier proof's goes to `adapters/RUN`, and
    comes back from there when it is asked for again."""
    place, kept = adapter_place(store.folder, VERIFY, name), adapter_place(store.folder, "grid", name)
    held = json.loads((place / record.RECORD).read_text(encoding="utf-8"))["run"] if (place / record.RECORD).is_file() else name
    if held != name:
        aside = adapter_place(store.folder, "grid", held)
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True)
        shutil.move(place, aside)
    if not place.exists() and kept.exists():
        shutil.move(kept, place)
    return place


def _note(proof: Verification) -> None:
    """Keep the proof in the adapter's record; those of other targets of the same run stay beside it."""
    path = proof.adapter / record.RECORD
    before = json.loads(path.read_text(encoding="utf-8")).get("verifications", {})
    facts = {key: value for key, value in proof.to_json().items() if key not in ("run", "adapter")}
    record.amend(proof.adapter, verification=facts, verifications={**before, proof.target: facts})
