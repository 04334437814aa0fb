"""Run a study: tune on small budgets, train the grid in stacks, write everything to its store."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from isolora.config import RunConfig, StudyConfig
from isolora.errors import ConfigError, unknown
from isolora.store import Store
from isolora.study import design
from isolora.study.executors import EXECUTORS, execute
from isolora.training.prepare import run_identity

STUDY_FILE = "study.json"


def run_study(study: StudyConfig, folder: Path | str, executor: str = "local", workers: int = 1, quiet: bool = False) -> Store:
    """Train what is missing of the study; a second call on the same folder finds nothing to do."""
    if executor not in EXECUTORS:
        raise ConfigError(unknown("executor", executor, EXECUTORS))
    runs = design.trial_runs(study) if study.tune else design.grid_runs(study)  # a wrong field shows before anything is written
    folder = Path(folder)
    store = Store(folder)
    remarks: list[str] = []
    if study.tune:
        execute(design.stacks(runs, study.stack), folder, "tune", executor, workers, quiet)
        runs, remarks = design.tuned_runs(study, final_losses(store, runs))
        for remark in remarks:
            print(remark, file=sys.stderr)
    (folder / STUDY_FILE).write_text(json.dumps({"study": study.model_dump(), "remarks": remarks}, indent=1) + "\n")
    execute(design.stacks(runs, study.stack), folder, "grid", executor, workers, quiet)
    return store


def final_losses(store: Store, runs: Sequence[RunConfig]) -> dict[RunConfig, float]:
    """Held-out loss at the end of each run that ended well."""
    last = {point["run"]: point["loss"] for point in store.points() if point["state"] == "DONE"}
    named = {run: run_identity(run) for run in runs}
    return {run: last[name] for run, name in named.items() if name in last}
