"""The design of a study: which runs its grid means, which of them share a stack, and which learning rate each goes on with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

from isolora import registry
from isolora.config import RunConfig, StudyConfig, content_hash, parse, with_value
from isolora.json_types import JsonMapping, JsonObject

Job = tuple[RunConfig, ...]


def grid_runs(study: StudyConfig) -> list[RunConfig]:
    """Every combination of the grid's values over the base configuration, in the grid's order, then the runs named one by one."""
    cells = [dict(zip(study.grid, values, strict=True)) for values in itertools.product(*study.grid.values())]
    cells = [*(cells if study.grid or not study.runs else []), *study.runs]
    runs = [(cell, run_from_grid(study.base, cell)) for cell in cells]
    return [run if "seed" in cell else _seeded(run, study) for cell, run in runs]


def _seeded(run: RunConfig, study: StudyConfig) -> RunConfig:
    """With `own_seeds`, a seed that follows from the rest of the run. Runs in the same data order go up and down together, which
    looks like a feature of the law and is none; and a bootstrap over runs would not see it."""
    if not study.own_seeds or "seed" in study.grid:
        return run
    return run.model_copy(update={"seed": int(run.identity()[:8], 16) >> 1})


def run_from_grid(base: JsonMapping, values: JsonMapping) -> RunConfig:
    given = dict(base)
    for key, value in values.items():
        given = with_value(given, key, value)
    return parse(RunConfig, given)


def trial_runs(study: StudyConfig) -> list[RunConfig]:
    """The grid on the tuning budget, all on the first seed: what is compared differs in nothing else."""
    grid = {**study.grid, "seed": _seeds(study)[:1]}
    return grid_runs(study.model_copy(update={"base": _trial_base(study), "grid": grid}))


def _trial_base(study: StudyConfig) -> JsonObject:
    """The base of a trial: the small budget, measured at its end alone."""
    assert study.tune is not None
    return with_value(with_value(study.base, "training.tokens", study.tune.tokens), "training.evaluate_from", study.tune.tokens)


def _seeds(study: StudyConfig) -> list[Any]:
    return study.grid.get("seed", [study.base.get("seed", 0)])


def tuned_runs(
    study: StudyConfig, losses: Mapping[RunConfig, float], failed: Set[RunConfig] = frozenset()
) -> tuple[list[RunConfig], list[str]]:
    """The grid with the tuned key at its best value for each cell, and sentences about cells whose best is at an edge or none.

    losses: final held-out loss of each trial; a trial that diverged is absent and counts as infinitely bad. failed: trials that
    have to be tried again; until then nobody knows their cell's best value, and the cell waits.
    """
    assert study.tune is not None
    over, values = study.tune.over, study.grid[study.tune.over]
    others = {key: value for key, value in study.grid.items() if key not in (over, "seed")}
    runs, remarks = [], []
    edges: dict[Any, list[str]] = {}
    for cell in itertools.product(*others.values()):
        chosen = dict(zip(others, cell, strict=True))
        trials = [run_from_grid(_trial_base(study), {**chosen, over: value, "seed": _seeds(study)[0]}) for value in values]
        if failed & set(trials):
            remarks.append(f"{over}: a trial failed for {cell_words(chosen)}; its runs wait until it has been trained")
            continue
        scores = [losses.get(trial, math.inf) for trial in trials]
        best = scores.index(min(scores))
        if math.isinf(scores[best]):
            remarks.append(f"{over}: every trial diverged for {cell_words(chosen)}; going on with {values[best]}")
        elif len(values) > 1 and best in (0, len(values) - 1):
            edges.setdefault(values[best], []).append(cell_words(chosen))
        winners = [run_from_grid(study.base, {**chosen, over: values[best], "seed": seed}) for seed in _seeds(study)]
        runs += [_seeded(winner, study) for winner in winners]
    return runs, [*remarks, *(_edge_words(over, value, cells) for value, cells in edges.items())]


def cell_words(chosen: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {_value_words(value)}" for key, value in chosen.items()) or "the only cell"


def _value_words(value: object) -> str:
    """A method is `lora with rank 8`, not a dictionary."""
    if not isinstance(value, Mapping):
        return str(value)
    rest = ", ".join(f"{key} {inner}" for key, inner in value.items() if key != "name")
    return " with ".join(part for part in (str(value.get("name", "")), rest) if part)


def _edge_words(over: str, value: object, cells: Sequence[str]) -> str:
    """One sentence for all cells whose best value is the same end of the grid."""
    where = cells[0] if len(cells) == 1 else f"{len(cells)} cells, such as {cells[0]}"
    return f"{over}: the best value {value} lies at the edge of the grid for {where}; a value beyond it may be better"


def stacks(runs: Sequence[RunConfig], size: int) -> list[Job]:
    """Runs grouped by what a stack shares (base, data, batches, budget), at most `size` together, in their order."""
    groups: dict[str, list[RunConfig]] = {}
    for run in runs:
        groups.setdefault(_shared(run), []).append(run)
    cut = []
    for group in groups.values():
        method, trainer = group[0].method.name, group[0].training.trainer
        plug_ins = (registry.load_plug_in("method", method), registry.load_plug_in("trainer", trainer))
        width = size if all(plug_in.stackable for plug_in in plug_ins) else 1
        cut += [tuple(group[start : start + width]) for start in range(0, len(group), width)]
    return cut


def _shared(run: RunConfig) -> str:
    """Hash of all that members of a stack must have in common: not the seed, not the learning rates, and what the method says."""
    shared = run.model_dump(exclude={"seed": True, "training": {"learning_rate", "head_learning_rate_ratio"}})
    own = registry.load_plug_in("method", run.method.name).own_in_stack
    shared["method"] = {key: value for key, value in shared["method"].items() if key not in own}
    return content_hash(shared)
