"""The price of a study before it starts: its runs drawn on paper and priced by the ledger."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from isolora.config import RunConfig, StudyConfig, content_hash
from isolora.cost import step_rates
from isolora.cost.accelerators import HERE, Place
from isolora.cost.calibration import calibrate
from isolora.cost.estimate import drawn_on_paper
from isolora.cost.memory import peak_of_run
from isolora.cost.time import Duration, predicted_seconds
from isolora.display import time_in_words
from isolora.errors import ConfigError
from isolora.json_types import JsonObject
from isolora.runs.device import device
from isolora.runs.workspace import Workspace
from isolora.study import design, search

WORKING_SHARE = 0.8
"""Of a small study's seconds, by which start-up and scores are reckoned in beside steps and held-out losses."""
MUCH_EVALUATION = 0.15
"""Share of a study's FLOPs from which held-out losses cost more than they need to: they scatter together, being of one text."""


@dataclass(frozen=True)
class StagePrice:
    """Of runs alike in all that decides their price. seconds: None where neither this machine nor an accelerator is known."""

    stage: str
    model: str
    method: str
    runs: int
    tokens: int
    flops: float
    evaluation_flops: float
    seconds: float | None
    price: float | None
    memory_bytes: int | None


@dataclass(frozen=True)
class StudyPrice:
    """rows: by stage, model and method; an upper bound for a search, whose pruned trials end early."""

    rows: tuple[StagePrice, ...]
    basis: str
    workers: int

    @property
    def runs(self) -> int:
        return sum(row.runs for row in self.rows)

    @property
    def flops(self) -> float:
        return sum(row.flops for row in self.rows)

    @property
    def evaluation_flops(self) -> float:
        """Of held-out losses, which are not among the FLOPs of training."""
        return sum(row.evaluation_flops for row in self.rows)

    @property
    def seconds(self) -> float | None:
        """Of training, evaluations left out, on so many workers; None where a row's is not known."""
        known = [row.seconds for row in self.rows if row.seconds is not None]
        return sum(known) / self.workers if len(known) == len(self.rows) else None

    @property
    def price(self) -> float | None:
        known = [row.price for row in self.rows if row.price is not None]
        return sum(known) if len(known) == len(self.rows) else None

    @property
    def peak_memory_bytes(self) -> int | None:
        return max((row.memory_bytes for row in self.rows if row.memory_bytes is not None), default=None)

    def to_json(self) -> JsonObject:
        return {
            "runs": self.runs,
            "flops": {"total": self.flops},
            "evaluation_flops": self.evaluation_flops,
            "tokens": sum(row.tokens for row in self.rows),
            "seconds": self.seconds,
            "seconds_basis": self.basis,
            "price": self.price,
            "peak_memory_bytes": self.peak_memory_bytes,
            "stages": [asdict(row) for row in self.rows],
        }

    def __str__(self) -> str:
        lines = [f"{'stage':<8}{'model':<16}{'method':<16}{'runs':>5}{'tokens':>14}{'FLOPs':>11}{'seconds':>10}{'MiB':>9}"]
        for row in self.rows:
            seconds = "unknown" if row.seconds is None else f"{row.seconds:,.0f}"
            memory = "unknown" if row.memory_bytes is None else f"{row.memory_bytes / 2**20:,.0f}"
            names = f"{row.stage:<8}{row.model.split('/')[-1][:15]:<16}{row.method[:15]:<16}"
            lines.append(f"{names}{row.runs:>5}{row.tokens:>14,}{row.flops:>11.3g}{seconds:>10}{memory:>9}")
        taken = "unknown here: --calibrate, or --on ACCELERATOR --utilisation SHARE"
        if self.seconds is not None:
            taken = f"{time_in_words(self.seconds)} of training on {self.workers} workers, {self.basis}"
        money = "" if self.price is None else f"; {self.price:,.2f} at the price given"
        lines.append(f"in all  {self.runs} runs, {self.flops:.4g} FLOPs; time {taken}{money}")
        return "\n".join([*lines, self._evaluations()])

    def _evaluations(self) -> str:
        """What held-out losses take, and what would make it less where that is much."""
        share = self.evaluation_flops / (self.flops + self.evaluation_flops)
        fewer = "; fewer data.eval_examples would make it less, or training.evaluate_between"
        less = fewer if share > MUCH_EVALUATION else ""
        return f"beside  {self.evaluation_flops:.4g} FLOPs of held-out losses, {share:.0%} of all{less}"


def price_study(study: StudyConfig, place: Place = HERE, workers: int = 1) -> StudyPrice:
    """Price every run of a study. Needs the bases' configurations and tokenizers, no weights.

    Raises ConfigError or DataError, one line, for whatever of the study cannot be run.
    """
    workspace = Workspace()
    found = [_priced(stage, group[0], len(group), place, workspace) for stage, runs in stages(study) for group in _alike(runs)]
    basis = next((made.basis for _, made in found if made is not None), "")
    return StudyPrice(tuple(row for row, _ in found), basis, workers)


def stages(study: StudyConfig) -> list[tuple[str, list[RunConfig]]]:
    """(stage, its runs). Which rate a grid goes on with is known only after its tuning, and does not change the price."""
    if study.search:
        corners = search.check_search(study)
        trials = [corners[number % len(corners)] for number in range(study.search.trials)]
        return [("search", trials), ("final", [design.run_from_grid(study.base, study.final)])]
    if not study.tune:
        return [("grid", design.grid_runs(study))]
    untuned = {key: values[:1] if key == study.tune.over else values for key, values in study.grid.items()}
    return [("tune", design.trial_runs(study)), ("grid", design.grid_runs(study.model_copy(update={"grid": untuned})))]


def tokens_within(study: StudyConfig, seconds: float) -> int:
    """The largest budget of a run, two digits of it, with which the whole study takes about so long here: some steps of each base
    are timed first, and time is taken to grow as the budget does."""
    for config in one_of_each(study):
        calibrate(config)
    price, tokens = price_study(study), study.base["training"]["tokens"]
    if not price.seconds:
        raise ConfigError("--time: what a step takes is not known here; give --tokens instead")
    taken = price.seconds * (1 + price.evaluation_flops / price.flops) / WORKING_SHARE
    return int(float(f"{tokens * seconds / taken:.2g}"))


def one_of_each(study: StudyConfig) -> list[RunConfig]:
    """A run of each base, task and method, to be timed."""
    kinds = {(run.model, run.task, run.method): run for _, runs in stages(study) for run in runs}
    return list(kinds.values())


def _alike(runs: Iterable[RunConfig]) -> list[list[RunConfig]]:
    """Runs that differ in nothing but seed and learning rates."""
    groups: dict[str, list[RunConfig]] = {}
    for run in runs:
        rates = {"learning_rate", "head_learning_rate_ratio"}
        groups.setdefault(content_hash(run.model_dump(exclude={"seed": True, "training": rates})), []).append(run)
    return list(groups.values())


def priced_run(stage: str, config: RunConfig, workspace: Workspace, place: Place = HERE) -> StagePrice:
    """The price of one run."""
    return _priced(stage, config, 1, place, workspace)[0]


def _priced(stage: str, config: RunConfig, runs: int, place: Place, workspace: Workspace) -> tuple[StagePrice, Duration | None]:
    """(the price of so many runs like this one, how long one takes)."""
    examples, labels, _, planned = drawn_on_paper(config, workspace)
    taken = predicted_seconds(step_rates.stored(config), config.training.precision, planned.flops, planned.micro_batches, place)
    row = StagePrice(
        stage=stage,
        model=config.model,
        method=method_name(config),
        runs=runs,
        tokens=runs * planned.progress.tokens,
        flops=runs * planned.flops.total,
        evaluation_flops=runs * planned.evaluation_flops,
        seconds=None if taken is None else runs * taken.seconds,
        price=None if taken is None or taken.price is None else runs * taken.price,
        memory_bytes=peak_of_run(config, examples, labels, device(), workspace.memory_bytes),
    )
    return row, taken


def largest_planned_flops(runs: Iterable[RunConfig], workspace: Workspace) -> float:
    """FLOPs of the run that takes most of them."""
    return max(drawn_on_paper(group[0], workspace)[-1].flops.total for group in _alike(runs))


def method_name(config: RunConfig) -> str:
    """The method with its rank, where it has one."""
    rank = config.method.fields().get("rank")
    return config.method.name if rank is None else f"{config.method.name} r={rank}"
